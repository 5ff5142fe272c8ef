// What a chart draws: a trace for each line, smoothed; or one for several lines of a group, their mean in the band from
// the least to the greatest. Pure.
import type { Axis } from "./axes";
import { placesOn } from "./axes";
import type { Look } from "./curves";
import type { Line } from "./metrics";
import { smooth } from "./smooth";

export type Trace = {
  id: string;
  name: string;
  /** What stands in the address where it is hidden. */
  key: string;
  look: Look;
  /** What all others are seen against: its value is told wherever the cursor is. */
  isReference: boolean;
  /** Lines behind it. */
  members: number;
  x: number[];
  /** Where neighbours lie further apart than this, nothing was trained in between, and no line joins them. */
  gap: number;
  /** As it was recorded; of a group there is none. */
  raw: (number | null)[];
  bold: (number | null)[];
  low: (number | null)[];
  high: (number | null)[];
};

/** Places along a group's curve, where it is made for a view; where it is made for the surroundings too, for each width of it. */
const PLACES = 300;
/** A view, and how many times its width is shown at most. */
type Made = { from: number; to: number; widths?: number };

type Kept = { key: string; trace: Trace };
const kept = new WeakMap<Line, Kept>();

/** The trace of a line; kept as long as the line, because a pan draws it again and again. */
export function traceOf(line: Line, axis: Axis, span: number): Trace {
  const key = `${axis} ${span}`;
  const found = kept.get(line);
  if (found?.key === key) return found.trace;
  const bold = smooth(line.values, line.tokens, span);
  const { id, name, look, values: raw, low, high } = line;
  const x = placesOn(axis, line, line.origin);
  const trace = { id, name, key: name, look, isReference: line.role === "dense", members: 1, x, gap: axis === "time" || axis === "relative" ? pauseOf(x) : Infinity, raw, bold, low, high };
  kept.set(line, { key, trace });
  return trace;
}

/** Usual distances between two points after which it is a pause. */
const PAUSE = 20;
const pauseOf = (x: number[]) => (PAUSE * ((x.at(-1) ?? 0) - (x[0] ?? 0))) / Math.max(1, x.length);

/** Index of the first place that is not before `at`. */
export function firstFrom(x: number[], at: number): number {
  let [low, high] = [0, x.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((x[middle] ?? Infinity) < at) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The place that is nearest to `at`; −1 where there is none. */
export function nearest(x: number[], at: number): number {
  const after = firstFrom(x, at);
  if (after === 0) return x.length > 0 ? 0 : -1;
  if (after === x.length) return x.length - 1;
  return at - (x[after - 1] ?? 0) <= (x[after] ?? 0) - at ? after - 1 : after;
}

/** The value between the neighbours of a place; null where there is none, or beyond the ends. */
export function between(x: number[], values: (number | null)[], at: number): number | null {
  const after = firstFrom(x, at);
  if (after === x.length) return null;
  if (x[after] === at) return values[after] ?? null;
  if (after === 0) return null;
  const [a, b] = [values[after - 1] ?? null, values[after] ?? null];
  if (a === null || b === null) return null;
  const [from, to] = [x[after - 1] ?? 0, x[after] ?? 0];
  return a + ((b - a) * (at - from)) / (to - from);
}

/** The part of some traces that a view shows, as one: at each place the mean, the least and the greatest of those that are there; it breaks where their number changes. */
export function groupOf(traces: Trace[], name: string, view: Made | null): Trace {
  const places = PLACES * (view?.widths ?? 1);
  const ends = traces.flatMap((trace) => [trace.x[0] ?? Infinity, trace.x.at(-1) ?? -Infinity]);
  const from = Math.max(view?.from ?? -Infinity, ends.reduce((a, b) => Math.min(a, b), Infinity));
  const to = Math.min(view?.to ?? Infinity, ends.reduce((a, b) => Math.max(a, b), -Infinity));
  const [x, bold, low, high]: [number[], (number | null)[], (number | null)[], (number | null)[]] = [[], [], [], []];
  let before = 0;
  for (let i = 0; i < places && to >= from; i += 1) {
    const at = from + ((to - from) * i) / (places - 1);
    let [sum, count, least, most] = [0, 0, Infinity, -Infinity];
    for (const trace of traces) {
      const value = between(trace.x, trace.bold, at);
      if (value === null) continue;
      [sum, count] = [sum + value, count + 1];
      [least, most] = [Math.min(least, value), Math.max(most, value)];
    }
    // A mean of others is another curve.
    if (count !== before && before > 0 && count > 0) {
      x.push(at - (to - from) / (2 * places));
      [bold, low, high].forEach((column) => column.push(null));
    }
    before = count;
    x.push(at);
    bold.push(count > 0 ? sum / count : null);
    low.push(count > 1 ? least : null);
    high.push(count > 1 ? most : null);
  }
  const [first] = traces;
  return { id: `group ${name}`, name, key: name, look: first?.look ?? { stroke: "#888", dash: [] }, isReference: false, members: traces.length, x, gap: Infinity, raw: [], bold, low, high };
}

export type Grouping = { roles: string[]; nameOf: (group: string) => string; lookOf: (group: string, members: Line[]) => Look };

/** Traces of all lines; those of the groups that are asked for as one, in the place of their first. */
export function tracesOf(lines: Line[], axis: Axis, span: number, view: Made | null, grouping: Grouping): Trace[] {
  const groups = new Map<string, Line[]>();
  for (const line of lines) if (line.group && grouping.roles.includes(line.role)) groups.set(line.group, [...(groups.get(line.group) ?? []), line]);
  const drawn = new Set<string>();
  return lines.flatMap((line): Trace[] => {
    const members = line.group && grouping.roles.includes(line.role) ? groups.get(line.group) : undefined;
    if (!line.group || !members || members.length < 2) return [traceOf(line, axis, span)];
    if (drawn.has(line.group)) return [];
    drawn.add(line.group);
    const together = groupOf(members.map((member) => traceOf(member, axis, span)), grouping.nameOf(line.group), view);
    return [{ ...together, key: `${line.group}*`, look: grouping.lookOf(line.group, members) }];
  });
}

/** Roles that more than one line has, so that there is something to group. */
export function groupable(lines: Line[], roles: readonly string[]): string[] {
  return roles.filter((role) => lines.filter((line) => line.role === role && line.group).length > 1);
}

/** Curves that are hidden where nobody chose: the seed's, once there is what grew from it; it would take most of both axes. */
export function usualHidden(lines: { role: string; name: string }[]): string[] {
  const seeds = lines.filter((line) => line.role === "seed");
  return seeds.length < lines.length ? seeds.map((line) => line.name) : [];
}

/** From where to where some traces reach. */
export function extent(traces: Trace[]): [number, number] | null {
  const ends = traces.flatMap((trace) => (trace.x.length > 0 ? [trace.x[0] ?? 0, trace.x.at(-1) ?? 0] : []));
  return ends.length > 0 ? [Math.min(...ends), Math.max(...ends)] : null;
}

/** A row of the hover. `value` is null where the curve is not, and `last` then is its newest value before. */
export type Row = { id: string; name: string; look: Look; members: number; isReference: boolean; value: number | null; last: number | null; low: number | null; high: number | null };

/** What stands under the cursor: the least first, at most so many, and the reference wherever it is. */
export function rowsAt(traces: Trace[], at: number, near: number, most: number): { rows: Row[]; left: number } {
  const rows = traces.flatMap((trace): Row[] => {
    const { id, name, look, members, isReference } = trace;
    const [first, end] = [trace.x[0] ?? Infinity, trace.x.at(-1) ?? -Infinity];
    const i = at >= first - near && at <= end + near ? nearest(trace.x, at) : -1;
    const value = i < 0 ? null : (trace.bold[i] ?? null);
    if (value === null && !isReference) return [];
    const last = at > end ? (trace.bold.findLast((found) => found !== null) ?? null) : null;
    return [{ id, name, look, members, isReference, value, last, low: trace.low[i] ?? null, high: trace.high[i] ?? null }];
  });
  const order = (row: Row) => row.value ?? row.last ?? Infinity;
  const sorted = rows.sort((a, b) => order(a) - order(b));
  const shown = sorted.filter((row, i) => i < most || row.isReference);
  return { rows: shown, left: sorted.length - shown.length };
}

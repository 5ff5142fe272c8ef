// What a zoomed chart asks for: which steps a view shows, whether there is anything finer, and when to ask. Pure.
import type { Metrics } from "./api";
import { beginOn, placesOn, zero, type Axis, type Origin } from "./axes";
import { isCoarse, splice } from "./metrics";

/** What the chart shows of its x axis; times in seconds, as the chart has them. */
export type View = { axis: Axis; from: number; to: number };
/** Steps, both included; without `to` up to the newest. */
export type Range = { from: number; to: number | null };
/** A finer reading of some steps, the view that it was asked for, and the curve's lineage at that moment. */
export type Held = { view: View; range: Range; lineage: string; metrics: Metrics };

/** A view that still moves is not worth a question. */
const REST_MS = 200;
/** A view that follows a training asks so often for the newest steps, at most. */
const FOLLOW_MS = 2000;

/** How long to wait before asking: until a moved view rests; or, since the last question, until it is time to follow. */
export function waitMs(moved: boolean, sinceAskedMs: number): number {
  return moved ? REST_MS : Math.max(0, FOLLOW_MS - sinceAskedMs);
}

export const isSame = (a: View | null, b: View | null) => a === b || (a?.axis === b?.axis && a?.from === b?.from && a?.to === b?.to);

/** Where attempts took each other's place. What was read under another lineage may show points that are no longer current. */
export const lineageOf = (metrics: Metrics) => metrics.superseded.map((tail) => `${tail.fence}@${tail.steps[0]}`).join(" ");

/** The steps of all points that a view shows, the first and the last whole; null when the curve is elsewhere. */
export function stepsIn(metrics: Metrics, view: View, origin: Origin = zero): Range | null {
  const { steps } = metrics;
  const x = placesOn(view.axis, { steps, tokens: metrics.tokens, at: metrics.at_ms }, origin);
  const begin = view.axis === "time" ? (x[0] ?? Infinity) : beginOn(view.axis, origin);
  const first = x.findIndex((value) => value >= view.from);
  if (first < 0 || view.to < begin) return null;
  const last = x.findIndex((value) => value >= view.to);
  return { from: first === 0 ? 0 : (steps[first - 1] ?? 0) + 1, to: last < 0 ? null : (steps[last] ?? null) };
}

/** The last step that a finer reading speaks for. */
const until = ({ range, metrics }: Held) => Math.max(range.to ?? range.from - 1, metrics.steps.at(-1) ?? 0);

/** A curve with the finer points that are held of it. */
export function detailed(whole: Metrics, held: Held | undefined): Metrics {
  return held && held.lineage === lineageOf(whole) ? splice(whole, held.metrics, held.range.from, until(held)) : whole;
}

/** The steps to ask for again, so that a view shows all there is; null where nothing finer can come. */
export function wanted(whole: Metrics, view: View, origin: Origin = zero, held?: Held): Range | null {
  const range = stepsIn(whole, view, origin);
  if (!range) return null;
  const isHeld = held?.lineage === lineageOf(whole);
  // What came for this very view is as fine as it gets; only what the curve grew by since may hide something.
  const from = isHeld && isSame(held.view, view) ? Math.max(range.from, until(held) + 1) : range.from;
  return isCoarse(isHeld ? detailed(whole, held) : whole, from, range.to ?? Infinity) ? range : null;
}

const queryOf = (range: Range, key: string, pointsMax: number) =>
  `metrics?keys=${encodeURIComponent(key)}&points_max=${pointsMax}&step_from=${range.from}${range.to === null ? "" : `&step_to=${range.to}`}`;

/** Where the finer reading of a branch is found. */
export const pathOf = (branch: string, range: Range, key: string, pointsMax: number) => `/branches/${branch}/${queryOf(range, key, pointsMax)}`;

/** The same of all branches of an experiment. */
export const pathOfAll = (experiment: string, range: Range, key: string, pointsMax: number) => `/experiments/${experiment}/${queryOf(range, key, pointsMax)}`;

/** Branches that are asked for one by one; where more want the same steps, one answer has them all. */
const SINGLY_MAX = 4;

/** Questions gathered into as few requests as they take: by steps, those that many ask for as one. */
export function gathered<T extends { range: Range }>(questions: T[], branches: number): { together: T[][]; alone: T[] } {
  const groups = new Map<string, T[]>();
  for (const question of questions) {
    const steps = `${question.range.from}~${question.range.to}`;
    groups.set(steps, [...(groups.get(steps) ?? []), question]);
  }
  const isMany = (group: T[]) => group.length > SINGLY_MAX && group.length * 2 >= branches;
  const all = [...groups.values()];
  return { together: all.filter(isMany), alone: all.filter((group) => !isMany(group)).flat() };
}

/** Curves that all have as many points as a chart can show; more share what these have, so that a hundred are there as fast. */
const CURVES_FULL = 30;
/** Fewer would not be a curve. */
const POINTS_MIN = 150;

/** Points to ask for of each curve, at most `most`. */
export const pointsFor = (curves: number, most: number): number => Math.max(Math.min(POINTS_MIN, most), Math.min(most, Math.floor((most * CURVES_FULL) / Math.max(1, curves))));

/** A view that is `by` of its own width further on. */
export const panned = ({ from, to, axis }: View, by: number): View => ({ axis, from: from + by * (to - from), to: to + by * (to - from) });

/** A view `factor` times as wide, in which what lies at a share of it stays where it is. */
export function scaled({ from, to, axis }: View, factor: number, share: number): View {
  const at = from + (to - from) * share;
  return { axis, from: at - (at - from) * factor, to: at + (to - at) * factor };
}

/** How much of its own width a group's curve is made beyond a moving view, on either side. */
const AROUND = 1;

/** What of a moving view is made at once, so that a pan makes nothing anew: the view and its surroundings; `kept` is what was made before. */
export function around(view: View, kept: View | null): View {
  const width = view.to - view.from;
  const isInside = kept?.axis === view.axis && kept.from <= view.from && kept.to >= view.to;
  if (kept && isInside && kept.to - kept.from <= 2 * width * (1 + 2 * AROUND)) return kept;
  return { axis: view.axis, from: view.from - AROUND * width, to: view.to + AROUND * width };
}

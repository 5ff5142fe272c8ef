// What a zoomed chart asks for: which steps a view shows, whether there is anything finer, and when to ask. Pure.
import type { Metrics } from "./api";
import { isCoarse, splice } from "./metrics";

export type Axis = "tokens" | "steps" | "time";
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
export function stepsIn(metrics: Metrics, view: View, start = 0): Range | null {
  const { steps } = metrics;
  const x = view.axis === "steps" ? steps : view.axis === "tokens" ? metrics.tokens.map((count) => count + start) : metrics.at_ms.map((ms) => ms / 1000);
  const begin = view.axis === "steps" ? 0 : view.axis === "tokens" ? start : (x[0] ?? Infinity);
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
export function wanted(whole: Metrics, view: View, start = 0, held?: Held): Range | null {
  const range = stepsIn(whole, view, start);
  if (!range) return null;
  const isHeld = held?.lineage === lineageOf(whole);
  // What came for this very view is as fine as it gets; only what the curve grew by since may hide something.
  const from = isHeld && isSame(held.view, view) ? Math.max(range.from, until(held) + 1) : range.from;
  return isCoarse(isHeld ? detailed(whole, held) : whole, from, range.to ?? Infinity) ? range : null;
}

/** Where the finer reading is found. */
export function pathOf(branch: string, range: Range, pointsMax: number): string {
  const to = range.to === null ? "" : `&step_to=${range.to}`;
  return `/branches/${branch}/metrics?keys=train/loss&points_max=${pointsMax}&step_from=${range.from}${to}`;
}

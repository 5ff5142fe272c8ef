import { expect, test } from "vitest";
import type { Branch, Metrics } from "./api";
import { zero } from "./axes";
import { LOSS, grow, isCoarse, lineOf, splice, tailsOf } from "./metrics";
import { detailed, gathered, lineageOf, panned, pathOf, pathOfAll, pointsFor, scaled, stepsIn, waitMs, wanted, type Held, type View } from "./zoom";

/** A curve whose points stand for `every` steps each; loss is the step, give or take one. */
function curve(first: number, last: number, every: number, superseded: Metrics["superseded"] = []): Metrics {
  const steps = Array.from({ length: Math.floor((last - first + 1) / every) }, (_, i) => first + (i + 1) * every - 1);
  const band = (by: number) => (every > 1 ? steps.map((step) => step + by) : null);
  return { branch_id: "b", steps, tokens: steps.map((step) => step * 100), at_ms: steps.map((step) => step * 1000), series: { "train/loss": { mean: steps, min: band(-1), max: band(1) } }, superseded, events: [] };
}
const branch = { id: "b", name: "b", role: "expert", domain: 1, tokens_total: 1000, steps: 10 } as unknown as Branch;
const told = { branch, origin: zero };
const steps = (from: number, to: number): View => ({ axis: "steps", from, to });
const held = (whole: Metrics, view: View, from: number, to: number | null, metrics: Metrics): Held => ({ view, range: { from, to }, lineage: lineageOf(whole), metrics });

test("a view is asked for with its first and last points whole", () => {
  const whole = curve(1, 1000, 10);
  expect(stepsIn(whole, steps(105, 199))).toEqual({ from: 101, to: 200 });
  expect(stepsIn(whole, { axis: "tokens", from: 10_500, to: 19_900 })).toEqual({ from: 101, to: 200 });
  expect(stepsIn(whole, { axis: "time", from: 105, to: 199 })).toEqual({ from: 101, to: 200 });
  expect(stepsIn(whole, steps(103, 104))).toEqual({ from: 101, to: 110 });
  expect(stepsIn(whole, steps(0, 5))).toEqual({ from: 0, to: 10 });
});

test("a view that reaches beyond the newest point is asked for to the newest", () => {
  expect(stepsIn(curve(1, 1000, 10), steps(905, 2000))).toEqual({ from: 901, to: null });
  expect(pathOf("b", { from: 901, to: null }, "train/loss", 1000)).toBe("/branches/b/metrics?keys=train%2Floss&points_max=1000&step_from=901");
  expect(pathOfAll("e", { from: 0, to: 9 }, "x", 50)).toBe("/experiments/e/metrics?keys=x&points_max=50&step_from=0&step_to=9");
});

test("a curve elsewhere is not asked for; on the axis of the lineage a branch begins where its parent ended", () => {
  const whole = curve(1, 100, 10);
  expect(stepsIn(whole, steps(2000, 3000))).toBeNull();
  const later = { tokens: 5000, ms: 2000 };
  expect(stepsIn(whole, { axis: "lineage", from: 100, to: 900 }, later)).toBeNull();
  expect(stepsIn(whole, { axis: "lineage", from: 6500, to: 7500 }, later)).toEqual({ from: 11, to: 30 });
  expect(stepsIn(whole, { axis: "tokens", from: 1500, to: 2500 }, later)).toEqual({ from: 11, to: 30 });
  expect(stepsIn(whole, { axis: "relative", from: 13, to: 23 }, later)).toEqual({ from: 11, to: 30 });
  expect(stepsIn(curve(1, 0, 10), steps(0, 10))).toBeNull();
});

test("where every point is one step there is nothing finer", () => {
  expect(wanted(curve(1, 500, 1), steps(10, 90))).toBeNull();
  expect(wanted(curve(1, 500, 10), steps(15, 90))).toEqual({ from: 11, to: 90 });
});

test("an answer is not asked for twice, a narrower view of coarse points is", () => {
  const [whole, view] = [curve(1, 10_000, 100), steps(1001, 3000)];
  const coarse = held(whole, view, 1001, 3000, curve(1001, 3000, 2));
  expect(wanted(whole, view, zero, coarse)).toBeNull();
  expect(wanted(whole, steps(1201, 1300), zero, coarse)).toEqual({ from: 1201, to: 1300 });
  const fine = held(whole, view, 1001, 3000, curve(1001, 3000, 1));
  expect(wanted(whole, steps(1201, 1300), zero, fine)).toBeNull();
  expect(wanted(whole, steps(2901, 3300), zero, fine)).toEqual({ from: 2901, to: 3300 });
});

test("a view that follows a training asks again only for what hides something", () => {
  const view = steps(801, 5000);
  const before = held(curve(1, 1000, 10), view, 801, null, curve(801, 1000, 1));
  expect(wanted(curve(1, 1000, 10), view, zero, before)).toBeNull();
  expect(wanted(curve(1, 1020, 10), view, zero, before)).toEqual({ from: 801, to: null });
  const live = { branch_id: "b", experiment_id: "e", steps: [1001, 1002], tokens: [1, 2], at_ms: [1, 2], series: { "train/loss": [5, 6] } };
  expect(wanted(grow(curve(1, 1000, 10), live), view, zero, before)).toBeNull();
});

test("what was read before another attempt took its place is not drawn, and asked for again", () => {
  const [before, view] = [curve(1, 1000, 10), steps(101, 200)];
  const answer = held(before, view, 101, 200, curve(101, 200, 1));
  const after = curve(1, 1000, 10, [{ fence: 1, steps: [150], loss: [1] }]);
  expect(detailed(before, answer).steps).toHaveLength(190);
  expect(detailed(after, answer)).toBe(after);
  expect(wanted(after, view, zero, answer)).toEqual({ from: 101, to: 200 });
});

test("a moved view is asked for when it rests, a followed one every two seconds", () => {
  expect([waitMs(true, 0), waitMs(false, 500), waitMs(false, 9000)]).toEqual([200, 1500, 0]);
});

test("finer points take the place of the coarse ones, and live points come after them", () => {
  const whole = curve(1, 40, 10);
  const joined = splice(whole, curve(11, 20, 5), 11, 20);
  expect(joined.steps).toEqual([10, 15, 20, 30, 40]);
  expect(joined.tokens).toEqual([1000, 1500, 2000, 3000, 4000]);
  expect(joined.series["train/loss"]?.max).toEqual([11, 16, 21, 31, 41]);
  const live = splice(curve(1, 60, 10), curve(31, 40, 1), 31, 40);
  expect(live.steps.slice(-3)).toEqual([40, 50, 60]);
});

test("single points in the middle have no band, the coarse ones around them keep theirs", () => {
  const joined = splice(curve(1, 40, 10), curve(11, 20, 5), 11, 20);
  const single = splice(curve(1, 40, 10), curve(11, 12, 1), 11, 20);
  expect(lineOf(told, joined, LOSS)[0]?.high).toEqual([11, 16, 21, 31, 41]);
  expect(lineOf(told, single, LOSS)[0]?.high).toEqual([11, null, null, 31, 41]);
  expect(isCoarse(single, 11, 20)).toBe(false);
  expect(isCoarse(single, 11, 21)).toBe(false);
  expect(isCoarse(single, 11, 30)).toBe(true);
  expect(lineOf(told, curve(1, 40, 1), LOSS)[0]?.low).toEqual([]);
  const scored = { ...single, series: { "held_out/whole": { mean: single.steps.map((step, i) => (i % 2 ? step : null)) } } };
  const sparse = lineOf(told, scored, "held_out/whole")[0];
  expect([sparse?.steps, sparse?.values]).toEqual([single.steps.filter((_, i) => i % 2), single.steps.filter((_, i) => i % 2)]);
});

test("superseded tails become finer with their curve", () => {
  const whole = curve(1, 40, 10, [{ fence: 3, steps: [16, 32], loss: [1, 2] }]);
  const finer = curve(11, 20, 5, [{ fence: 3, steps: [14, 15, 16], loss: [4, 5, 6] }]);
  const joined = splice(whole, finer, 11, 20);
  expect(joined.superseded).toEqual([{ fence: 3, steps: [14, 15, 16, 32], loss: [4, 5, 6, 2] }]);
  const [tail] = tailsOf(told, joined, "superseded");
  expect([tail?.id, tail?.name, tail?.tokens]).toEqual(["tail-3", "#3 superseded", [1400, 1500, 1600, 3200]]);
});

test("what the stream tells twice is drawn once, and a lost value is a gap", () => {
  const live = { branch_id: "b", experiment_id: "e", steps: [10, 11], tokens: [1000, 1100], at_ms: [10, 11], series: { "train/loss": [9, null] } };
  const grown = grow(curve(1, 10, 5), live);
  expect(grown.steps).toEqual([5, 10, 11]);
  expect(grown.series["train/loss"]).toEqual({ mean: [5, 10, null], min: [4, 9, null], max: [6, 11, null] });
  expect(grow(grown, live)).toBe(grown);
});

test("what many branches want of the same steps is asked for once, the rest one by one", () => {
  const ask = (from: number, count: number) => Array.from({ length: count }, () => ({ range: { from, to: from + 9 } }));
  const { together, alone } = gathered([...ask(1, 8), ...ask(11, 3)], 12);
  expect([together.map((group) => group.length), alone.length]).toEqual([[8], 3]);
  expect(gathered(ask(1, 8), 100).together).toEqual([]);
  expect(gathered(ask(1, 2), 2).alone).toHaveLength(2);
});

test("a hundred branches have fewer points each, but never too few to draw", () => {
  expect([pointsFor(3, 1000), pointsFor(100, 1000), pointsFor(10_000, 1000)]).toEqual([1000, 300, 150]);
});

test("a pan keeps the width, a zoom what is under the fingers", () => {
  expect(panned(steps(100, 200), 0.5)).toEqual(steps(150, 250));
  expect(scaled(steps(100, 200), 0.5, 0.25)).toEqual(steps(112.5, 162.5));
});

import { expect, test } from "vitest";
import type { Branch, Metrics } from "./api";
import { beganAt, budgetOf, originsOf, placesOn, startsOf, zero } from "./axes";
import { csvOf, fileName, jsonOf } from "./exports";
import type { Line } from "./metrics";
import { logTicks, percentile, rangeOf } from "./range";
import { found, sortedNames, ticksOf, unitOf, valueOf } from "./series";
import { placeOf, smooth, spansOf, usualSpan } from "./smooth";
import { between, extent, groupOf, groupable, nearest, rowsAt, traceOf, tracesOf, usualHidden, type Grouping } from "./traces";

const branch = (id: string, parent: string | null, tokens_total: number, more: Partial<Branch> = {}) => ({ id, name: id, role: "expert", parent_id: parent, tokens_total, tokens: tokens_total, state: "running", ...more }) as Branch;

/** A line with a point each hundred tokens. */
function line(name: string, values: (number | null)[], { role = "expert", start = 0 } = {}): Line {
  const steps = values.map((_, i) => i + 1);
  return { id: name, name, role, domain: 0, look: { stroke: "#123456", dash: [] }, group: role, origin: { tokens: start, ms: 0 }, steps, tokens: steps.map((step) => step * 100), at: steps.map((step) => step * 1000), values, low: [], high: [] };
}
const grouping = (roles: string[]): Grouping => ({ roles, nameOf: (role) => role, lookOf: (_, members) => members[0]?.look ?? { stroke: "", dash: [] } });

test("an expert begins where its parent ended, a fork where its checkpoint is, a child of a failed one where that stopped", () => {
  const tree = [branch("seed", null, 600), branch("a", "seed", 100), branch("b", "a", 50), branch("fork", "seed", 50, { start_checkpoint_id: "c" }), branch("dead", "seed", 100, { state: "failed", tokens: 30 }), branch("heir", "dead", 10), branch("lost", "nowhere", 10)];
  expect([...startsOf(tree, { c: 250 })]).toEqual([["seed", 0], ["a", 600], ["b", 700], ["fork", 250], ["dead", 600], ["heir", 630], ["lost", 0]]);
  expect(startsOf(tree).get("fork")).toBe(600);
});

test("parents that go in a circle end nothing", () => {
  expect([...startsOf([branch("a", "b", 1), branch("b", "a", 1)]).keys()].sort()).toEqual(["a", "b"]);
});

test("a curve begins with its first attempt, however it is thinned", () => {
  const begun = { kind: "attempt_started", at: "1970-01-01T00:00:05Z" };
  const metrics = (first: number) => ({ at_ms: [first], events: [begun, { ...begun, at: "1970-01-01T00:00:50Z" }] }) as unknown as Metrics;
  expect([beganAt(metrics(9000)), beganAt(metrics(60_000)), beganAt({ at_ms: [7], events: [] })]).toEqual([5000, 5000, 7]);
  expect(originsOf([branch("a", null, 9)], { a: metrics(9000) }).get("a")).toEqual({ tokens: 0, ms: 5000 });
});

test("each axis has its places", () => {
  const origin = { tokens: 500, ms: 1000 };
  const places = { steps: [1, 2], tokens: [10, 20], at: [2000, 4000] };
  expect((["lineage", "tokens", "steps", "time", "relative"] as const).map((axis) => placesOn(axis, places, origin))).toEqual([[510, 520], [10, 20], [1, 2], [2, 4], [1, 3]]);
  expect(placesOn("lineage", places, zero)).toBe(places.tokens);
  expect(budgetOf([branch("a", null, 5), branch("b", null, 9)])).toBe(9);
});

test("smoothing begins at the first value, keeps holes, and 0 is off", () => {
  expect(smooth([2, null, 2], [100, 200, 300], 1000)).toEqual([2, null, 2]);
  expect(smooth([5, NaN, 9], [1, 2, 3], 1)[1]).toBeNull();
  const values = [1, 2];
  expect(smooth(values, [1, 2], 0)).toBe(values);
});

test("a thinned curve is smoothed as the whole one is", () => {
  const [every, span] = [16, 20_000];
  const tokens = Array.from({ length: 3200 }, (_, i) => (i + 1) * 100);
  const values = tokens.map((count, i) => 4 - count / 100_000 + (i % 2 ? 0.1 : -0.1));
  const fine = smooth(values, tokens, span);
  const thin = <T>(column: T[]) => column.filter((_, i) => i % every === every - 1);
  const means = thin(values).map((_, k) => values.slice(k * every, (k + 1) * every).reduce((a, b) => a + b) / every);
  const coarse = smooth(means, thin(tokens), span);
  thin(fine).forEach((value, k) => expect(Math.abs((value ?? 0) - (coarse[k] ?? 0))).toBeLessThan(0.01));
});

test("a gap in tokens lets the past fade by as much", () => {
  const value = smooth([0, 1], [100, 10_100], 1000)[1] ?? 0;
  expect(value).toBeGreaterThan(0.9999);
});

test("the slider has off, the usual span is a hundredth of the budget, and any span of a link has a place", () => {
  expect(spansOf(1_000_000)).toEqual([0, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000]);
  expect(usualSpan(1_000_000)).toBe(10_000);
  expect([placeOf(spansOf(1_000_000), 0), placeOf(spansOf(1_000_000), 11_000), placeOf(spansOf(1_000_000), 1), placeOf(spansOf(1_000_000), 1e9)]).toEqual([0, 5, 1, 9]);
});

test("percentiles lie between neighbours", () => {
  expect([percentile([1, 2, 3, 4], 0.5), percentile([1, 2, 3, 4], 0), percentile([7], 0.99)]).toEqual([2.5, 1, 7]);
  expect(percentile([], 0.5)).toBeNaN();
});

test("an outlier does not stretch the axis, unless it is wanted; the newest value is always in view", () => {
  const values = [...Array.from({ length: 300 }, (_, i) => 3 + (i % 10) / 100), 80];
  const view = (bold: (number | null)[]) => [{ values, bold, edges: [2, 90] }];
  const [low, high] = rangeOf(view([3]), { hasOutliers: false, isLog: false }) ?? [0, 0];
  expect(low > 2.9 && high < 3.2).toBe(true);
  expect((rangeOf(view([3]), { hasOutliers: true, isLog: false }) ?? [])[1]).toBeGreaterThan(90);
  expect((rangeOf(view([3, 5, null]), { hasOutliers: false, isLog: false }) ?? [])[1]).toBeGreaterThan(5);
});

test("a flat curve, no curve and a logarithm have ranges too", () => {
  const of = (values: (number | null)[], isLog = false) => rangeOf([{ values, bold: values, edges: [] }], { hasOutliers: true, isLog });
  const [low, high] = of([0.5, 0.5]) ?? [0, 0];
  expect(low < 0.5 && high > 0.5).toBe(true);
  expect([of([]), of([null, NaN]), of([-1, 0], true)]).toEqual([null, null, null]);
  expect((of([0, 0.001, 1], true) ?? [])[0]).toBeGreaterThan(0);
  expect((of([0, 1]) ?? [])[0]).toBe(0);
});

test("a logarithmic axis has numbers that read well, however much it spans", () => {
  expect(logTicks(0.9, 120, 8)).toEqual([1, 2, 5, 10, 20, 50, 100]);
  expect(logTicks(2.6, 3.7, 6)).toEqual([2.6, 2.8, 3, 3.2, 3.4, 3.6]);
  expect(logTicks(1e-9, 1e3, 6)).toEqual([1e-9, 1e-6, 1e-3, 1, 1000]);
  expect(logTicks(150 * 2 ** 20, 400 * 2 ** 20, 4, 2 ** 20)).toEqual([200, 300, 400].map((count) => count * 2 ** 20));
  expect([logTicks(0, 1, 5), logTicks(2, 2, 5)]).toEqual([[], []]);
});

test("a trace is kept while its line is drawn alike", () => {
  const one = line("a", [3, 2, 1]);
  expect(traceOf(one, "steps", 50)).toBe(traceOf(one, "steps", 50));
  expect(traceOf(one, "lineage", 50).x).toEqual([100, 200, 300]);
});

test("places are found, and values between them", () => {
  expect([nearest([1, 5, 9], 6), nearest([1, 5, 9], 8), nearest([1], 99), nearest([], 1)]).toEqual([1, 2, 0, -1]);
  expect([between([0, 10], [1, 3], 5), between([0, 10], [1, null], 5), between([0, 10], [1, 3], 11), between([0, 10], [1, 3], -1), between([0, 10], [1, 3], 10)]).toEqual([2, null, null, null, 3]);
});

test("a group is the mean in the band of those that are there", () => {
  const traces = [line("a", [1, 1, 1]), line("b", [3, 3])].map((one) => traceOf(one, "tokens", 0));
  const group = groupOf(traces, "experts", null);
  expect([group.members, group.bold[0], group.low[0], group.high[0]]).toEqual([2, 2, 1, 3]);
  // The line breaks where one of them ends.
  expect(group.bold.filter((value) => value === null)).toHaveLength(1);
  expect([group.bold.at(-1), group.low.at(-1), group.x.at(-1)]).toEqual([1, null, 300]);
  expect(groupOf(traces, "experts", { from: 150, to: 200 }).x[0]).toBe(150);
});

test("only what is asked for is grouped, in the place of its first; one alone stays as it is", () => {
  const lines = [line("seed", [4], { role: "seed" }), line("r0", [3], { role: "random" }), line("e0", [2]), line("r1", [3], { role: "random" })];
  const names = (roles: string[]) => tracesOf(lines, "tokens", 0, null, grouping(roles)).map((trace) => trace.key);
  expect([names(["random"]), names(["expert"])]).toEqual([["seed", "random*", "e0"], ["seed", "r0", "e0", "r1"]]);
  expect(groupable(lines, ["random", "expert", "chain"])).toEqual(["random"]);
});

test("the seed is hidden once there is what grew from it", () => {
  const of = (...roles: string[]) => usualHidden(roles.map((role, i) => ({ role, name: `${role}-${i}` })));
  expect([of("seed"), of("seed", "dense"), of()]).toEqual([[], ["seed-0"], []]);
});

test("the hover never leaves out the reference, wherever it ended and however many are better", () => {
  const dense = line("dense", [9, 8], { role: "dense" });
  const traces = [...Array.from({ length: 20 }, (_, i) => line(`e${i}`, [i / 10, i / 10, i / 10])), dense].map((one) => traceOf(one, "tokens", 0));
  const { rows, left } = rowsAt(traces, 200, 1, 5);
  expect([rows.length, rows.at(-1)?.name, rows.at(-1)?.value, left]).toEqual([6, "dense", 8, 15]);
  const after = rowsAt(traces, 300, 1, 5).rows.at(-1);
  expect([after?.name, after?.value, after?.last]).toEqual(["dense", null, 8]);
  expect(rowsAt([traces[20]].flatMap((trace) => trace ?? []), 1, 1, 5).rows[0]?.value).toBeNull();
});

test("on an axis of time a pause is a gap, on others there is none", () => {
  const paused = { ...line("a", Array.from({ length: 50 }, (_, i) => i)), at: Array.from({ length: 50 }, (_, i) => (i < 25 ? i : i + 500) * 1000) };
  expect(traceOf(paused, "time", 0).gap).toBeLessThan(500);
  expect(traceOf(paused, "tokens", 0).gap).toBe(Infinity);
});

test("a curve that is over is not under the cursor any more", () => {
  const traces = [line("a", [1, 2]), line("b", [1, 2, 3])].map((one) => traceOf(one, "tokens", 0));
  expect(rowsAt(traces, 290, 10, 5).rows.map((row) => row.name)).toEqual(["b"]);
  expect(extent(traces)).toEqual([100, 300]);
  expect(extent([])).toBeNull();
});

test("metrics are ordered by what matters, found by name and by word, and pinned ones come first", () => {
  expect(sortedNames(["held_out/domain/10", "throughput/mfu", "held_out/domain/2", "held_out/whole", "train/a"])).toEqual(["train/a", "held_out/whole", "held_out/domain/2", "held_out/domain/10", "throughput/mfu"]);
  const names = sortedNames(["zoo/x", "memory/bytes", "train/learning_rate", "train/loss", "throughput/mfu", "train/a", "train/loss"]);
  expect(names).toEqual(["train/loss", "train/learning_rate", "train/a", "throughput/mfu", "memory/bytes", "zoo/x"]);
  expect(found(names, "speicher", ["zoo/x", "gone"], (name) => (name === "memory/bytes" ? "Speicher" : ""))).toEqual({ pinned: ["zoo/x"], others: ["memory/bytes"] });
});

test("each metric is written in its unit", () => {
  expect(["memory/bytes", "throughput/mfu", "time/data_wait_share", "train/learning_rate", "throughput/tokens_per_second", "train/loss"].map(unitOf)).toEqual(["bytes", "share", "share", "rate", "count", "plain"]);
  expect([valueOf("memory/bytes", 2 ** 21), valueOf("throughput/mfu", 0.4), valueOf("train/learning_rate", 0.003), valueOf("train/loss", 2.71828), valueOf("x", null)]).toEqual(["2.0\u2009MiB", "40.0\u2009%", "3.00e−3", "2.718", "–"]);
  expect(ticksOf("throughput/mfu", [0, 0.05, 0.1])).toEqual(["0\u2009%", "5\u2009%", "10\u2009%"]);
  expect(ticksOf("train/learning_rate", [0.0005, 0.001])).toEqual(["5e−4", "0.001"]);
});

test("what is taken away says where each point lies, and no name becomes a formula", () => {
  const one = { ...line("=a, \"b\"", [1, null], { start: 500 }), low: [0.5, null], high: [1.5, null] };
  expect(csvOf([one], "train/loss").split("\n")).toEqual(["branch,step,tokens,tokens_lineage,time,train/loss,train/loss_min,train/loss_max", '"\'=a, ""b""",1,100,600,1970-01-01T00:00:01.000Z,1,0.5,1.5', '"\'=a, ""b""",2,200,700,1970-01-01T00:00:02.000Z,,,']);
  const taken = JSON.parse(jsonOf([one], "train/loss", "http://x/")) as { curves: { tokens_before: number; mean: unknown[]; min: unknown[] }[] };
  expect([taken.curves[0]?.tokens_before, taken.curves[0]?.mean, taken.curves[0]?.min]).toEqual([500, [1, null], [0.5, null]]);
  expect(fileName(["my run", "train/loss"], "csv")).toBe("my-run-train-loss.csv");
});

import { expect, test } from "vitest";
import type { Storage } from "./api";
import { messages } from "./messages";
import { bar, forecast, share, tone, used } from "./storage";

const GIB = 2 ** 30;
const empty: Storage = { url: "file:///store", checkpoint_bytes: 0, shard_bytes: 0, other_bytes: 0, counted_at: "2026-01-01T00:00:00Z", budget_bytes: null, growth_bytes: 0, experiments: [], database: { bytes: 0, tables: [] }, disks: [] };
const under = (bytes_forecast: number | null, experiment = "a") => ({ experiment_id: experiment, experiment, bytes: GIB, bytes_forecast });
const check = (view: Partial<Storage>, ...keys: string[]) => expect(forecast({ ...empty, ...view }).map((sentence) => sentence.key)).toEqual(keys);

test("nothing under way adds nothing", () => {
  check({}, "storageRest", "storageNoBudget");
  check({ budget_bytes: GIB }, "storageRest");
});

test("what is under way is forecast, and what cannot be known yet is named", () => {
  check({ growth_bytes: GIB, experiments: [under(2 * GIB)] }, "storageGrowth", "storageNoBudget");
  check({ budget_bytes: 9 * GIB, growth_bytes: GIB, experiments: [under(2 * GIB), under(null, "b")] }, "storageGrowthOf", "storageUnknown");
  check({ budget_bytes: 9 * GIB, experiments: [under(null)] }, "storageUnknown");
  expect(forecast({ ...empty, budget_bytes: GIB, experiments: [under(null), under(null, "b")] })[0]?.values.names).toBe("a, b");
});

test("too much is said, with what to do", () => {
  const full = { checkpoint_bytes: 8 * GIB, shard_bytes: GIB, budget_bytes: 10 * GIB, growth_bytes: 2 * GIB, experiments: [under(3 * GIB)] };
  check(full, "storageGrowthOf", "storageWillBeOver");
  expect(forecast({ ...empty, ...full })[1]).toEqual({ key: "storageWillBeOver", values: { over: "1.0\u2009GiB" }, tone: "warn" });
  check({ ...full, other_bytes: 2 * GIB }, "storageGrowthOf", "storageOver");
  expect(messages.storageWillBeOver[0]).toContain("storage_budget");
});

test("colour follows how full the store is", () => {
  const at = (gib: number, budget_bytes: number | null) => tone({ ...empty, checkpoint_bytes: gib * GIB, budget_bytes });
  expect([at(99, null), at(8, 10 * GIB), at(9, 10 * GIB), at(11, 10 * GIB)]).toEqual(["", "", "warn", "bad"]);
});

test("the bar is the budget, or all there will be with the budget marked", () => {
  const view = { ...empty, checkpoint_bytes: 4 * GIB, shard_bytes: GIB, growth_bytes: GIB };
  expect(used(view)).toBe(5 * GIB);
  expect(bar(view, 10 * GIB)).toEqual({ parts: [{ kind: "checkpoints", width: 40 }, { kind: "shards", width: 10 }, { kind: "growth", width: 10 }], budget: 100 });
  expect(bar(view, 3 * GIB).budget).toBe(50);
});

test("shares are written for people", () => {
  expect([share(0, 9), share(1, 9000), share(4, 1000), share(5, 10)]).toEqual(["0 %", "< 0.1 %", "0.4 %", "50 %"]);
});

test("both languages name the same values", () => {
  const names = (text: string) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();
  for (const [key, pair] of Object.entries(messages)) expect(names(pair[0]), key).toEqual(names(pair[1]));
});

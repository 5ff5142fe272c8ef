// What the store holds, as parts of one bar, and what it will hold, as sentences. Pure.
import type { Storage } from "./api";
import { bytes } from "./format";
import type { Key } from "./messages";

export type Kind = "checkpoints" | "shards" | "other";
export type Part = { kind: Kind; bytes: number };
export type Sentence = { key: Key; values: Record<string, string>; tone: "" | "warn" | "bad" };

/** From this share of its budget on a store is nearly full; the server says so in an event. */
const NEARLY_FULL = 0.9;

export const used = (view: Storage) => view.checkpoint_bytes + view.shard_bytes + view.other_bytes;

export function parts(view: Storage): Part[] {
  return [
    { kind: "checkpoints", bytes: view.checkpoint_bytes },
    { kind: "shards", bytes: view.shard_bytes },
    { kind: "other", bytes: view.other_bytes },
  ];
}

/** 7 %, 0.4 %, < 0.1 %. */
export function share(part: number, of: number): string {
  const percent = (100 * part) / Math.max(1, of);
  if (percent > 0 && percent < 0.1) return "< 0.1 %";
  return `${percent.toFixed(percent > 0 && percent < 9.95 ? 1 : 0)} %`;
}

/** The bar over a budget: parts and what may come as percentages of it, and where the budget ends. */
export function bar(view: Storage, budget: number): { parts: { kind: Kind | "growth"; width: number }[]; budget: number } {
  // Where more than the budget is used or expected, the bar is all of that, and the budget a mark within.
  const all = Math.max(budget, used(view) + view.growth_bytes, 1);
  const width = (count: number) => (100 * count) / all;
  const held = parts(view).map((part) => ({ kind: part.kind, width: width(part.bytes) }));
  return { parts: [...held, { kind: "growth" as const, width: width(view.growth_bytes) }].filter((part) => part.width > 0), budget: width(budget) };
}

/** How full it is, as a colour. */
export function tone(view: Storage): Sentence["tone"] {
  const budget = view.budget_bytes;
  if (budget == null || used(view) < NEARLY_FULL * budget) return "";
  return used(view) > budget ? "bad" : "warn";
}

/** What will be, and what to do where that is too much. */
export function forecast(view: Storage): Sentence[] {
  const budget = view.budget_bytes;
  const total = used(view) + view.growth_bytes;
  const values: Record<string, string> = { growth: bytes(view.growth_bytes), total: bytes(total), budget: bytes(budget ?? 0) };
  const unknown = view.experiments.filter((experiment) => experiment.bytes_forecast == null).map((experiment) => experiment.experiment);
  const said: Sentence[] = [];
  if (view.experiments.length === 0) said.push({ key: "storageRest", values, tone: "" });
  else if (unknown.length < view.experiments.length) said.push({ key: budget == null ? "storageGrowth" : "storageGrowthOf", values, tone: "" });
  if (budget == null) said.push({ key: "storageNoBudget", values, tone: "" });
  else if (used(view) > budget) said.push({ key: "storageOver", values: { over: bytes(used(view) - budget) }, tone: "bad" });
  else if (total > budget) said.push({ key: "storageWillBeOver", values: { over: bytes(total - budget) }, tone: "warn" });
  if (unknown.length > 0) said.push({ key: "storageUnknown", values: { names: unknown.join(", ") }, tone: "" });
  return said;
}

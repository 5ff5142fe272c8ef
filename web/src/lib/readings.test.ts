import { expect, test } from "vitest";
import type { Worker, WorkerMetrics } from "./api";
import { drainOf } from "./drain";
import { panelsOf } from "./readings";
import { valueOf } from "./series";

const at_ms = [0, 60_000, 120_000];
const metrics: WorkerMetrics = {
  worker_id: "w", every_ms: 60_000,
  sources: [
    { source: "machine", at_ms, series: { "cpu/share": [0.1, null, 0.3], "memory/used_bytes": [1, 2, 3], "memory/total_bytes": [9, 9, 9] } },
    { source: "cuda:0", at_ms, series: { "device/utilisation": [1, 1, 1], "device/memory_total_bytes": [80, 80, 80], "device/memory_used_bytes": [8, 8, 8] } },
    { source: "cuda:1", at_ms, series: { "device/utilisation": [0, 0, 0], "device/memory_total_bytes": [80, 80, 80], "device/memory_used_bytes": [8, 8, 8] } },
  ],
};

test("devices come first, each its own line; what is not known has no panel", () => {
  const panels = panelsOf(metrics, (series) => series);
  expect(panels.map(({ name, traces }) => [name, traces.map((trace) => trace.name)])).toEqual([
    ["device/utilisation", ["cuda:0", "cuda:1"]],
    ["device/memory_used_bytes", ["cuda:0", "device/memory_total_bytes", "cuda:1"]],
    ["cpu/share", ["cpu/share"]],
    ["memory/used_bytes", ["memory/used_bytes", "memory/total_bytes"]],
  ]);
  const [use] = panels[0]?.traces ?? [];
  expect([use?.x, use?.gap]).toEqual([[0, 60, 120], 150]);
  expect(panels[0]?.traces[0]?.look.stroke).not.toBe(panels[0]?.traces[1]?.look.stroke);
});

test("readings are written in their units", () => {
  expect([valueOf("network/bytes_per_second", 2 ** 21), valueOf("device/celsius", 61.4), valueOf("device/watts", 312.6)]).toEqual(["2.0\u2009MiB/s", "61\u2009°C", "313\u2009W"]);
});

const slot = (index: number, title?: string, branch?: string, progress?: number) => ({ slot: { index, device: "cpu", device_name: "", memory_bytes: 0, threads: 1 }, title: title ?? null, branch_id: branch ?? null, job_id: title ? `j${index}` : null, progress: progress ?? null, tokens_per_second: null });
const worker = (id: string, slots: ReturnType<typeof slot>[], mode = "enabled") => ({ id, name: id, host: "", version: "", state: "alive", mode, labels: {}, slots, memory_used_bytes: 0, cpu_share: 0, seen_at: "", set_aside: null, slower_percent: null }) as unknown as Worker;

test("a drain says what saves, what begins anew, and whether there is room elsewhere", () => {
  const here = worker("a", [slot(0, "train expert-0", "b0", 0.5), slot(1, "shard 3", undefined, 0.9), slot(2)]);
  const other = worker("b", [slot(0), slot(1, "train x", "x")]);
  expect(drainOf(here, [here, other])).toEqual({ saves: ["train expert-0"], anew: ["shard 3"], free: 1 });
  expect(drainOf(here, [here, worker("c", [slot(0)], "draining")]).free).toBe(0);
});

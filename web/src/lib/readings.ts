// How a worker's machine and devices were, as panels of lines. Pure.
import { zero } from "./axes";
import type { WorkerMetrics } from "./api";
import { colour } from "./curves";
import { traceOf, type Trace } from "./traces";
import type { Line } from "./metrics";

/** Panels in the order of what is asked for first; each shows some series in one unit. */
const PANELS = [
  { name: "device/utilisation", series: ["device/utilisation"] },
  { name: "device/memory_used_bytes", series: ["device/memory_used_bytes", "device/memory_total_bytes"] },
  { name: "device/watts", series: ["device/watts"] },
  { name: "device/throttled", series: ["device/throttled"] },
  { name: "device/ecc_uncorrected", series: ["device/ecc_uncorrected"] },
  { name: "device/celsius", series: ["device/celsius"] },
  { name: "cpu/share", series: ["cpu/share"] },
  { name: "memory/used_bytes", series: ["memory/used_bytes", "memory/total_bytes"] },
  { name: "network/bytes_per_second", series: ["network/received_bytes_per_second", "network/sent_bytes_per_second"] },
  { name: "disk/bytes_per_second", series: ["disk/read_bytes_per_second", "disk/written_bytes_per_second"] },
] as const;

/** What is only there to be compared with: a machine's memory in all. */
const WHOLE = /total_bytes$/;
/** Points missing in a row after which a line breaks. */
const GAP = 2.5;

export type ReadingPanel = { name: string; traces: Trace[] };

/** `word` names a series; a device's curves have its name. */
export function panelsOf(metrics: WorkerMetrics, word: (series: string) => string): ReadingPanel[] {
  const devices = metrics.sources.filter(({ source }) => source !== "machine");
  return PANELS.flatMap(({ name, series }) => {
    const traces = metrics.sources.flatMap(({ source, at_ms, series: has }) => series.flatMap((key, i): Trace[] => {
      const values = has[key];
      if (!values) return [];
      const isDevice = source !== "machine";
      const isWhole = WHOLE.test(key);
      // Of several devices the memory in all is the same line again and again.
      if (isWhole && isDevice && source !== devices[0]?.source) return [];
      const title = isDevice ? (isWhole ? word(key) : source) : word(key);
      const stroke = isWhole ? "#808080" : colour(isDevice ? devices.findIndex((one) => one.source === source) : i);
      const line: Line = { id: `${source} ${key}`, name: title, role: "reading", domain: null, look: { stroke, dash: isWhole ? [6, 3] : [] }, group: null, origin: zero, steps: [], tokens: [], at: at_ms, values, low: [], high: [] };
      return [{ ...traceOf(line, "time", 0), gap: (GAP * metrics.every_ms) / 1000 }];
    }));
    return traces.length > 0 ? [{ name, traces }] : [];
  });
}

/** How far back one looks, in hours; 0 for all that is kept. */
export const SPANS = [1, 24, 168, 0] as const;

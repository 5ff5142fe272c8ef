// Recorded metrics by their names: in what order, in what unit, and how a value of each is written. Pure.
import { bytes, ticks, tokens, whole } from "./format";
import { matches } from "./lists";

/** What is asked for first; others of a folder come by name after them. */
const order = ["train/loss", "train/grad_norm", "train/learning_rate", "held_out/whole", "throughput/tokens_per_second", "throughput/mfu", "throughput/mfu_data_sheet", "memory/bytes", "device/memory_bytes", "device/utilisation", "time/data_wait_share", "time/checkpoint_stall_share"];
const folders = ["train", "held_out", "throughput", "memory", "device", "time"];

const folderOf = (name: string) => name.split("/")[0] ?? "";
const rank = (found: number) => (found < 0 ? Infinity : found);

/** Names as they are shown: by folder, in it what matters most, then by name. */
export function sortedNames(names: Iterable<string>): string[] {
  const key = (name: string): [number, number] => [rank(folders.indexOf(folderOf(name))), rank(order.indexOf(name))];
  return [...new Set(names)].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x[0] !== y[0]) return x[0] - y[0];
    if (x[1] !== y[1]) return x[1] - y[1];
    return a.localeCompare(b, undefined, { numeric: true });
  });
}

/** Names that a search finds, by name or by words; pinned ones first, and always. */
export function found(names: string[], query: string, pinned: string[], wordsOf: (name: string) => string): { pinned: string[]; others: string[] } {
  return {
    pinned: pinned.filter((name) => names.includes(name)),
    others: names.filter((name) => !pinned.includes(name) && matches([name, wordsOf(name)], query)),
  };
}

type Unit = "bytes" | "bytesRate" | "celsius" | "watts" | "share" | "rate" | "count" | "plain";

/** The unit, as far as a name tells it: the last word says it. */
export function unitOf(name: string): Unit {
  if (/bytes$/.test(name)) return "bytes";
  if (/bytes_per_second$/.test(name)) return "bytesRate";
  if (/celsius$/.test(name)) return "celsius";
  if (/watts$/.test(name)) return "watts";
  if (/share$|mfu|utilisation$|throttled$/.test(name)) return "share";
  if (/learning_rate$/.test(name)) return "rate";
  if (/per_second$/.test(name)) return "count";
  return "plain";
}

/** Whether a metric is measured at few of the steps that have a point: between them there is nothing, and no gap. */
export const isSparse = (name: string) => folderOf(name) === "held_out";

/** Whether a metric is what the schedule says: smoothing would only make it wrong. */
export const isExact = (name: string) => name === "train/learning_rate";

/** Four digits that say something: 2.7183, 0.0012, 12 345. */
function plain(value: number): string {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 10_000) return whole(value);
  if (size < 0.001) return value.toExponential(2).replace("-", "−");
  return value.toFixed(size >= 1000 ? 1 : size >= 100 ? 2 : 3);
}

/** A value in words. */
export function valueOf(name: string, value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return "–";
  const unit = unitOf(name);
  if (unit === "bytes") return bytes(Math.round(value));
  if (unit === "bytesRate") return `${bytes(Math.round(value))}/s`;
  if (unit === "celsius") return `${value.toFixed(0)}\u2009°C`;
  if (unit === "watts") return `${value.toFixed(0)}\u2009W`;
  if (unit === "share") return `${(value * 100).toFixed(value < 0.0995 ? 2 : 1)}\u2009%`;
  if (unit === "rate") return value === 0 ? "0" : value.toExponential(2).replace("-", "−");
  if (unit === "count") return whole(value);
  return plain(value);
}

/** Values along the y axis. */
export function ticksOf(name: string, values: (number | null)[]): string[] {
  const write = (value: number | null) => {
    if (value === null) return "";
    const unit = unitOf(name);
    if (unit === "bytes") return bytes(value).replace(".0", "");
    if (unit === "bytesRate") return `${bytes(value).replace(".0", "")}/s`;
    if (unit === "celsius") return `${Number(value.toPrecision(6))}\u2009°C`;
    if (unit === "watts") return `${Number(value.toPrecision(6))}\u2009W`;
    if (unit === "share") return `${Number((value * 100).toPrecision(6))}\u2009%`;
    if (unit === "count") return value >= 1000 ? tokens(value) : String(Number(value.toPrecision(6)));
    return value !== 0 && Math.abs(value) < 0.001 ? Number(value.toPrecision(4)).toExponential().replace("-", "−") : String(Number(value.toPrecision(6)));
  };
  const written = values.map(write);
  // Neighbours that read alike need more digits.
  return unitOf(name) === "count" && new Set(written.filter(Boolean)).size < written.filter(Boolean).length ? written.map((text, i) => (text === "" ? "" : (ticks(values.map((value) => value ?? 0))[i] ?? text))) : written;
}

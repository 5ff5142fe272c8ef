// Curves to take away: CSV and JSON of what is recorded, as text. Pure.
import { placesOn } from "./axes";
import type { Line } from "./metrics";

/** A field of a CSV file; one that a spreadsheet would take for a formula is told as text. */
function field(value: string | number | null | undefined): string {
  if (value == null) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

const bounds = (line: Line, i: number): [number | null, number | null] => [line.low[i] ?? null, line.high[i] ?? null];

/** A row a point. Minimum and maximum stand where a point is of more than one step. */
export function csvOf(lines: Line[], metric: string): string {
  const rows = lines.flatMap((line) => {
    const lineage = placesOn("lineage", line, line.origin);
    return line.steps.map((step, i) => {
      const at = line.at[i] === undefined ? "" : new Date(line.at[i]).toISOString();
      return [line.name, step, line.tokens[i], lineage[i], at, line.values[i], ...bounds(line, i)].map(field).join(",");
    });
  });
  return [["branch", "step", "tokens", "tokens_lineage", "time", metric, `${metric}_min`, `${metric}_max`].map(field).join(","), ...rows].join("\n");
}

/** The same as one object, with where each curve begins. */
export function jsonOf(lines: Line[], metric: string, address: string): string {
  const curves = lines.map((line) => ({
    branch: line.name, branch_id: line.id, role: line.role, domain: line.domain, tokens_before: line.origin.tokens,
    step: line.steps, tokens: line.tokens, time_ms: line.at, mean: line.values,
    ...(line.high.length > 0 ? { min: line.low, max: line.high } : {}),
  }));
  return JSON.stringify({ metric, address, curves });
}

/** A name for a file, of letters that every system takes. */
export const fileName = (parts: string[], ending: string): string => `${parts.join(" ").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "")}.${ending}`;

// What the figures of a report say: differences to dense, which models are controls, curves over temperature and number of
// experts, what chains forgot. Pure; no words.
import type { Report } from "./api";

export type MatrixRow = Report["matrix"][number];
export type Chain = Report["chains"][number];
type Losses = MatrixRow["domains"];

/** Nats per token from which on a difference is marked, where nobody chose. */
export const THRESHOLD = 0.02;

/** Loss on a domain; null where there is none. */
export const lossOn = (losses: Losses | undefined, domain: number): number | null => losses?.find((found) => found.domain === domain)?.loss ?? null;

/** The model that all others are seen against: the dense one of the same training, else the first. */
export const denseOf = ({ matrix }: Pick<Report, "matrix">, repeat = 0): MatrixRow | undefined =>
  matrix.find((row) => row.role === "dense" && row.repeat === repeat) ?? matrix.find((row) => row.role === "dense");

/** How far a model's loss on a domain is from dense's; null for dense itself and where one of them is absent. */
export function deltaOn(report: Pick<Report, "matrix">, row: MatrixRow, domain: number): number | null {
  const dense = denseOf(report, row.repeat);
  if (!dense || row.role === "dense") return null;
  const [own, other] = [lossOn(row.domains, domain), lossOn(dense.domains, domain)];
  return own === null || other === null ? null : own - other;
}

/** Models that were trained for comparison only. */
export const isControl = ({ role }: Pick<MatrixRow, "role">) => role === "random" || role === "dense";

/** The rows that are shown, and how many are folded away. */
export function folded(matrix: MatrixRow[], hasControls: boolean): { rows: MatrixRow[]; count: number } {
  const rows = hasControls ? matrix : matrix.filter((row) => !isControl(row));
  return { rows, count: matrix.length - rows.length };
}

/** The routed ensemble with one number of experts, over the temperatures. */
export type SurfaceCurve = { topK: number; points: { temperature: number; calibration: number | null; reported: number | null; isChosen: boolean; isBest: boolean }[] };

/** A curve for each number of experts, the temperatures in order. */
export function surfaceCurves(surface: Report["surface"]): SurfaceCurve[] {
  return [...new Set(surface.map((row) => row.top_k))].sort((a, b) => a - b).map((topK) => ({
    topK,
    points: surface.filter((row) => row.top_k === topK).sort((a, b) => a.temperature - b.temperature).map((row) => ({
      temperature: row.temperature, calibration: row.calibration ?? null, reported: row.reported ?? null, isChosen: row.chosen, isBest: row.best_of_top_k,
    })),
  }));
}

/** What a chain forgot of a domain, from the link that learned it on: `at` counts links from 0. */
export type ForgettingCurve = { domain: number; points: { at: number; delta: number }[] };

/** A curve for each domain that was learned before the last link. A link that learns a domain has forgotten nothing of it. */
export function forgettingCurves(chain: Chain): ForgettingCurve[] {
  const learned = chain.links.map((link) => link.domain);
  return [...new Set(learned.slice(0, -1))].map((domain) => {
    const first = learned.indexOf(domain);
    const points = chain.links.flatMap((link, at) => {
      if (at < first) return [];
      const found = link.forgetting.find((forgotten) => forgotten.domain === domain);
      return found ? [{ at, delta: found.loss_delta }] : at === first ? [{ at, delta: 0 }] : [];
    });
    return { domain, points };
  });
}

/** What an experiment's own words are for a domain. */
export const labelOf = (report: Pick<Report, "domains">, domain: number): string => report.domains.find((found) => found.index === domain)?.label ?? "";

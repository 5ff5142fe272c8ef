// A report as one document, to be looked at or handed on, and as data. Pure.
import type { Domain, Ensemble, Report } from "./api";
import { forgettingFigure, surfaceFigure } from "./figures";
import { tokens, whole } from "./format";
import { svgOf, type Figure } from "./svg";
import { chainTable, contestantCostsTable, contestantsTable, costsTable, domainsTable, matrixTable, surfaceTable, type Say } from "./tables";
import type { Block } from "./written";

/** What is marked, and whether models that were trained for comparison only are shown in the matrix. */
export type Manner = { threshold: number; hasControls: boolean };

const drawn = (figure: Figure | null, caption = ""): Block[] => (figure ? [{ kind: "figure", caption, svg: (width) => svgOf(figure, width) }] : []);
const basisOf = ({ basis: of }: Report, say: Say) =>
  say("basis", { reported: whole(of.documents_reported), tokens: tokens(of.tokens_reported), calibration: whole(of.documents_calibration), repeats: of.repeats, resamples: whole(of.resamples) });

/** First the finding, then what it stands on, then everything else. */
export function documentOf(report: Report, say: Say, manner: Manner): Block[] {
  const small = (text: string): Block => ({ kind: "text", tone: "small", text });
  return [
    { kind: "text", tone: "headline", text: report.headline },
    { kind: "table", table: contestantsTable(report, say) },
    small(basisOf(report, say)),
    ...report.contestants.flatMap((row) => row.absent.map((why) => small(`${row.title}: – (${why})`))),
    { kind: "heading", text: say("contestantCosts") },
    { kind: "table", table: contestantCostsTable(report, say) },
    ...(report.surface.length > 0 ? ([{ kind: "heading", text: say("surface") }, ...drawn(surfaceFigure(report, say), say("surfaceHelp")), { kind: "table", table: surfaceTable(report, say) }] satisfies Block[]) : []),
    { kind: "heading", text: say("matrix"), id: "matrix" },
    { kind: "table", table: matrixTable(report, say, manner) },
    ...report.chains.flatMap((chain): Block[] => [
      { kind: "heading", text: report.chains.length > 1 ? `${say("chain")} (${chain.name})` : say("chain") },
      { kind: "text", text: chain.headline },
      ...drawn(forgettingFigure(report, chain, say, manner.threshold)),
      { kind: "table", table: chainTable(report, chain, say, manner.threshold) },
    ]),
    { kind: "heading", text: say("domains") },
    { kind: "table", table: domainsTable(report, say) },
    { kind: "heading", text: say("costs") },
    { kind: "table", table: costsTable(report, say) },
    { kind: "heading", text: say("method") },
    { kind: "list", items: report.method },
  ];
}

/** Domains without their texts: what is handed on holds no document of the corpus. */
const withoutTexts = ({ nearest: _n, typical: _t, farthest: _f, ...domain }: Domain) => domain;

/** Where the store lies is nobody's business but the fleet's. */
const withoutPlace = ({ storage_url: _, ...ensemble }: Ensemble) => ensemble;

/** Everything as data. */
export const dataOf = (report: Report, ensemble: Ensemble | null, domains: Domain[]): string =>
  JSON.stringify({ report, ensemble: ensemble && withoutPlace(ensemble), domains: domains.map(withoutTexts) }, null, 1);

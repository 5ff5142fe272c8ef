// What is known of one domain: who draws from it, what its report says of it, how good the division is. Pure.
import type { Branch, Clustering, Domain, Report } from "./api";
import { heat } from "./curves";
import { figure, tokens, whole } from "./format";
import { denseOf, deltaOn, lossOn } from "./report";
import { signed, type Say } from "./tables";
import type { Cell, Table } from "./written";

const NONE = "–";
const share = (part: number) => `${(100 * part).toFixed(1)} %`;

/** The page of a domain. */
export const pageOf = (experiment: string, domain: number): string => `experiments/${experiment}/domains/${domain}`;

/** A branch, and the share of what it draws that is of the domain. */
export type Drawer = { branch: Branch; share: number };

/** Who draws from a domain, who draws most of it first. */
export function drawersOf(branches: Branch[], domain: number): Drawer[] {
  const drawers = branches.flatMap((branch): Drawer[] => {
    const weights = branch.mixture?.weights ?? [];
    const all = weights.reduce((sum, { weight }) => sum + weight, 0);
    const own = weights.find((found) => found.domain === domain)?.weight ?? 0;
    if (own > 0) return [{ branch, share: own / all }];
    // What one is for is known before what it draws from.
    return branch.domain === domain ? [{ branch, share: 1 }] : [];
  });
  return drawers.sort((a, b) => b.share - a.share);
}

/** How large it is, and what it is made of. */
export function factsTable(domain: Domain, all: Domain[], say: Say): Table {
  const total = all.reduce((sum, found) => sum + (found.tokens ?? 0), 0);
  const parts = (shares: { share: number }[], name: (of: never) => string) => shares.map((found) => `${name(found as never)} ${share(found.share)}`).join(" · ");
  const number = (value: number | null | undefined, write: (value: number) => string): Cell => ({ text: value == null ? NONE : write(value) });
  return {
    isSmall: true,
    columns: [...(["documents", "heldOut", "tokens", "share"] as const).map((key) => ({ text: say(key), isNumber: true })), { text: say("language") }, { text: say("sources") }],
    rows: [{ key: String(domain.index), cells: [
      number(domain.documents ?? domain.sample_documents, whole), number(domain.documents_held_out, whole), number(domain.tokens, tokens), number(total > 0 ? (domain.tokens ?? 0) / total : null, share),
      { text: parts(domain.languages, (of: Domain["languages"][number]) => of.language) || NONE }, { text: parts(domain.sources, (of: Domain["sources"][number]) => of.source) || NONE },
    ] }],
  };
}

/** How good the division into domains is, over all of them; figures that there are not have their reason. */
export function qualityTable({ quality }: Clustering, say: Say): Table | null {
  if (!quality) return null;
  const names = ["silhouette", "stability_nmi", "stability_ari", "source_nmi", "balance_max_over_mean"] as const;
  return {
    isSmall: true,
    columns: [{ text: say("qualityFigure"), isWide: true }, { text: say("value"), isNumber: true }, { text: say("why"), isWide: true }],
    rows: names.map((name) => ({
      key: name,
      cells: [{ text: say(`quality_${name}`) }, { text: figure(quality[name], 3) }, { text: quality[name] == null ? (quality.absent?.find((absent) => absent.figure === name)?.why ?? "") : say(`qualityHelp_${name}`), tone: "muted" }],
    })),
  };
}

const against = (delta: number | null): Cell => ({ text: delta === null ? NONE : signed(delta, 3), ...(delta === null ? {} : { heat: heat(delta) }) });
const byLoss = <T extends { loss: number | null }>(rows: T[]) => rows.toSorted((a, b) => (a.loss ?? Infinity) - (b.loss ?? Infinity));

/** Every contestant on the domain, the best first, beside dense. */
export function contestantsOn(report: Report, domain: number, say: Say): Table {
  const dense = report.contestants.find(({ key }) => key === "dense");
  const reference = dense ? lossOn(dense.domains, domain) : null;
  const rows = byLoss(report.contestants.map((row) => ({ row, loss: lossOn(row.domains, domain) })));
  return {
    isSmall: true,
    columns: [{ text: say("name"), isWide: true }, { text: say("lossHere"), isNumber: true }, { text: say("perplexity"), isNumber: true }, { text: say("againstNats"), isNumber: true }],
    rows: rows.map(({ row, loss }) => ({
      key: row.key, isStrong: row.key === "ensemble", title: row.absent.join("\n"),
      cells: [
        row.branch_id ? { text: row.title, href: `branches/${row.branch_id}` } : { text: row.title }, { text: figure(loss, 3) }, { text: figure(loss === null ? null : Math.exp(loss), 2) },
        against(loss === null || reference === null || row.key === "dense" ? null : loss - reference),
      ],
    })),
  };
}

/** Every single model on the domain, the best first, each beside the dense one of its training. */
export function modelsOn(report: Report, domain: number, say: Say): Table {
  const rows = byLoss(report.matrix.map((row) => ({ row, loss: lossOn(row.domains, domain) })));
  return {
    isSmall: true,
    columns: [{ text: say("branch"), isWide: true }, { text: say("lossHere"), isNumber: true }, { text: denseOf(report) ? say("againstNats") : "", isNumber: true }],
    rows: rows.map(({ row, loss }) => ({
      key: row.branch, isStrong: row.domain === domain,
      cells: [{ text: row.branch, href: `branches/${row.branch_id}` }, { text: figure(loss, 3) }, against(deltaOn(report, row, domain))],
    })),
  };
}

// Two or more experiments beside each other: which domains belong together, what the reports say, what cannot be compared. Pure.
import type { Branch, Domain, Experiment, Report } from "./api";
import { colour, look, type Look } from "./curves";
import { deltaOn, lossOn } from "./report";

/** A domain, the other experiment's that is most like it (none where no term is shared), and how many of all terms are shared. */
export type Pair = { one: Domain; other: Domain | null; shared: string[]; likeness: number };

const shareOf = (one: Domain, other: Domain) => {
  const shared = one.top_terms.filter((term) => other.top_terms.includes(term));
  return { shared, likeness: shared.length / Math.max(1, new Set([...one.top_terms, ...other.top_terms]).size) };
};

/** Domains that belong together, each at most once, the most alike first taken. Of one clustering they are the same by number. */
export function mapped(ones: Domain[], others: Domain[], isSame: boolean): Pair[] {
  if (isSame) return ones.map((one) => ({ one, other: others.find((other) => other.index === one.index) ?? null, shared: one.top_terms, likeness: 1 }));
  const all = ones.flatMap((one) => others.map((other) => ({ one, other, ...shareOf(one, other) }))).filter((pair) => pair.likeness > 0);
  const [taken, found] = [new Set<number>(), new Map<number, Pair>()];
  for (const pair of all.sort((a, b) => b.likeness - a.likeness)) {
    if (found.has(pair.one.index) || taken.has(pair.other.index)) continue;
    taken.add(pair.other.index);
    found.set(pair.one.index, pair);
  }
  return ones.map((one) => found.get(one.index) ?? { one, other: null, shared: [], likeness: 0 });
}

/** Names that tell experiments apart: those that share one get the end of their id. */
export function namesOf(experiments: Pick<Experiment, "id" | "name">[]): string[] {
  return experiments.map(({ id, name }) => (experiments.filter((other) => other.name === name).length > 1 ? `${name} ${id.slice(-4)}` : name));
}

/** A contestant's line of each report, by its stable word. */
export type Figure = { key: string; title: string; cells: (Report["contestants"][number] | null)[] };

/** Main figures of some reports; null where there is no report. Ensembles of a fixed number of experts are left to the reports. */
export function figuresOf(reports: (Report | null)[]): Figure[] {
  const rows = new Map<string, string>();
  for (const report of reports) for (const { key, title } of report?.contestants ?? []) if (!/^ensemble_/.test(key) && !rows.has(key)) rows.set(key, title);
  return [...rows].map(([key, title]) => ({ key, title, cells: reports.map((report) => report?.contestants.find((row) => row.key === key) ?? null) }));
}

/** The expert's loss on its own domain, and how far that is from the same experiment's dense model. */
export function ownLoss(report: Report | null, domain: number | undefined): { loss: number; against: number | null } | null {
  if (!report || domain === undefined) return null;
  const own = report.matrix.find((row) => row.role === "expert" && row.domain === domain && row.repeat === 0);
  const loss = lossOn(own?.domains, domain);
  return !own || loss === null ? null : { loss, against: deltaOn(report, own, domain) };
}

export type Unlike = "corpus" | "tokenizer" | "heldOutText";

/** Why perplexities of some experiments are not of the same text and tokens. */
export function unlike(experiments: Pick<Experiment, "corpus_id" | "clustering_id" | "spec">[]): Unlike[] {
  const differ = (of: (experiment: (typeof experiments)[number]) => unknown) => new Set(experiments.map((experiment) => JSON.stringify(of(experiment)))).size > 1;
  const found: Unlike[] = [];
  if (differ((experiment) => experiment.corpus_id)) found.push("corpus");
  if (differ(({ corpus_id, spec }) => [spec.tokenizer, spec.tokenizer?.kind === "train" ? corpus_id : null])) found.push("tokenizer");
  if (differ(({ clustering_id, spec }) => [clustering_id, spec.data?.held_out_fraction, spec.evaluation?.documents_per_domain])) found.push("heldOutText");
  return found;
}

/** Of several experiments a curve wears its experiment's colour, and its role's dashes. */
export const lookIn = (experiment: number, role: string): Look => ({ stroke: colour(experiment), dash: look(role, 0).dash });

/** Branches that are compared: all of an experiment, or those that were chosen. */
export const chosen = (branches: Branch[], ids: string[]): Branch[] => (ids.length > 0 ? branches.filter((branch) => ids.includes(branch.id)) : branches);

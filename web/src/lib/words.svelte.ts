// The words of an experiment's domains, beside every branch of one: read once, they do not change.
import { allOf, type Domain } from "./api";

const known = $state<Record<string, Record<number, string>>>({});
const asked = new Set<string>();
/** Words that tell a domain from the others. */
const WORDS = 3;

/** Tells an experiment's words, when they were read elsewhere anyway. */
export function learn(experiment: string, domains: Domain[]) {
  if (domains.length > 0) known[experiment] = Object.fromEntries(domains.map((domain) => [domain.index, domain.top_terms.slice(0, WORDS).join(", ")]));
}

/** Reads them, if there are any by now. */
export async function read(experiment: string) {
  if (known[experiment] || asked.has(experiment)) return;
  asked.add(experiment);
  await allOf<Domain>(`/experiments/${experiment}/domains`).then((domains) => learn(experiment, domains)).catch(() => undefined);
  asked.delete(experiment);
}

/** The same for what is known by its name only: `expert-3` is the expert of domain 3. */
export function wordsOfName(experiment: string, name: string): string {
  const domain = /\bexpert-(\d+)/.exec(name)?.[1];
  return domain === undefined ? "" : (known[experiment]?.[Number(domain)] ?? "");
}

/** The top words of a branch's domain. */
export const wordsOf = (branch: { experiment_id: string; domain?: number | null }) =>
  branch.domain == null ? "" : (known[branch.experiment_id]?.[branch.domain] ?? "");

// A model card of an experiment's experts, as Hugging Face's hub reads it: YAML in front, Markdown below. Pure. What Senmon does
// not know (a licence, above all) is left out of the front, and said.
import { stringify } from "yaml";
import type { Domain, Ensemble, Experiment, Report } from "./api";
import { figure, tokens } from "./format";
import { lossOn } from "./report";
import { contestantsTable, domainsTable, type Say } from "./tables";
import { markdownOf, type Block, type Table } from "./written";

export type Subject = { report: Report; experiment: Experiment; /** Null where the experiment has none. */ ensemble: Ensemble | null; domains: Domain[] };

/** Share of a corpus from which on it is said to be in a language. */
const LANGUAGE_SHARE = 0.05;
/** What stands for a language that is not known. */
const OTHER = "other";

/** Languages of the corpus, by the documents of its sample, the most frequent first. */
export function languagesOf(domains: Domain[]): string[] {
  const all = Math.max(1, domains.reduce((sum, domain) => sum + domain.sample_documents, 0));
  const shares = new Map<string, number>();
  for (const domain of domains) for (const { language, share } of domain.languages) shares.set(language, (shares.get(language) ?? 0) + (share * domain.sample_documents) / all);
  return [...shares].filter(([language, share]) => language !== OTHER && share >= LANGUAGE_SHARE).sort((a, b) => b[1] - a[1]).map(([language]) => language);
}

/** The lines between the dashes. */
export function frontOf({ report, experiment, domains }: Subject): string {
  const metrics = report.contestants.flatMap(({ title, perplexity }) => (perplexity == null ? [] : [{ type: "perplexity", name: title, value: Number(perplexity.toFixed(4)) }]));
  const languages = languagesOf(domains);
  const corpus = experiment.spec.corpus;
  return stringify({
    ...(languages.length > 0 ? { language: languages } : {}),
    library_name: "transformers", pipeline_tag: "text-generation", tags: ["senmon", "c-btm", "domain-experts"],
    ...(metrics.length > 0 ? { "model-index": [{ name: report.name, results: [{ task: { type: "text-generation" }, dataset: { type: corpus, name: `${corpus} (held out)` }, metrics }] }] } : {}),
  }, { lineWidth: 0 });
}

/** The experts, the loss of each on its own domain, and the checkpoint that it is. */
function expertsTable({ report, ensemble }: Subject, say: Say): Table {
  const row = (branch: string) => report.matrix.find((found) => found.branch === branch);
  const domainOf = (domain: number) => report.domains.find((found) => found.index === domain);
  return {
    columns: [{ text: say("branch") }, { text: say("domain") }, { text: say("terms") }, { text: say("ownLoss"), isNumber: true }, { text: say("checkpoint") }],
    rows: (ensemble?.experts ?? []).map((expert) => ({
      key: expert.branch,
      cells: [expert.branch, `${expert.domain} ${domainOf(expert.domain)?.label ?? ""}`, domainOf(expert.domain)?.top_terms.join(", ") ?? "", figure(lossOn(row(expert.branch)?.domains, expert.domain), 3), expert.checkpoint.id].map((text) => ({ text })),
    })),
  };
}

/** How it was trained, as the file says. */
function trainingTable({ experiment, report }: Subject, say: Say): Table {
  const { spec } = experiment;
  const trained = report.costs.reduce((sum, cost) => sum + cost.tokens, 0);
  const hours = report.costs.reduce((sum, cost) => sum + cost.gpu_hours + cost.cpu_slot_hours, 0);
  const rows: [string, string][] = [
    [say("corpus"), spec.corpus],
    [say("stage_seed"), spec.seed.kind === "train" ? say("cardSeedHere", { tokens: tokens(Number(spec.seed.tokens)) }) : spec.seed.path],
    [say("tokenizer"), spec.tokenizer.kind === "train" ? say("cardTokenizerHere", { entries: spec.tokenizer.vocab_size }) : spec.tokenizer.path],
    ...(spec.model ? ([[say("model"), `${spec.model.model_type ?? "llama"}, hidden_size ${spec.model.hidden_size}, num_hidden_layers ${spec.model.num_hidden_layers}, num_attention_heads ${spec.model.num_attention_heads}`]] satisfies [string, string][]) : []),
    [say("window"), String(spec.data.sequence_length)],
    [say("learningRate"), `${spec.training.learning_rate}, ${spec.training.schedule ?? "linear"}`],
    [say("batchWindows"), String(spec.training.batch_windows)],
    [say("trainingTokens"), tokens(trained)],
    [say("slotTime"), `${hours.toFixed(2)} h`],
  ];
  return { columns: [{ text: say("setting") }, { text: say("value") }], rows: rows.map(([key, value]) => ({ key, cells: [{ text: key }, { text: value }] })) };
}

/** The whole card. */
export function cardOf(subject: Subject, say: Say): string {
  const { report, ensemble } = subject;
  const heading = (text: string): Block => ({ kind: "heading", text });
  const text = (text: string): Block => ({ kind: "text", text });
  const chosen = ensemble?.chosen;
  const blocks: Block[] = [
    text(report.headline),
    ...(ensemble ? [
      text(say("cardWhat", { count: ensemble.experts.length, window: ensemble.sequence_length })),
      ...(chosen ? [text(say("cardRouted", { k: chosen.top_k, temperature: chosen.temperature, every: ensemble.route_every_tokens }))] : []),
      heading(say("group_expert")), { kind: "table" as const, table: expertsTable(subject, say) },
      heading(say("cardUse")), { kind: "code" as const, text: `senmon --output json ensemble ${report.experiment_id} > ensemble.json\nsenmon-worker score ensemble.json TEXTS.jsonl` },
    ] : []),
    heading(say("cardTraining")), { kind: "table", table: trainingTable(subject, say) },
    heading(say("domains")), { kind: "table", table: domainsTable(report, say) },
    heading(say("cardEvaluation")), { kind: "table", table: contestantsTable(report, say) }, { kind: "list", items: report.method },
    heading(say("cardLimits")),
    { kind: "list", items: [say("cardLicence"), say("cardOnlyLoss"), say("cardOtherDomains"), ...report.chains.map((chain) => chain.headline), ...report.contestants.flatMap((row) => row.absent.map((why) => `${row.title}: ${why}`))] },
  ];
  return `---\n${frontOf(subject)}---\n\n${markdownOf(report.name, blocks)}`;
}

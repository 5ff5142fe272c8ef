import { expect, test } from "vitest";
import { parse } from "yaml";
import type { Domain, Ensemble, Experiment, Report } from "./api";
import { cardOf, languagesOf } from "./card";
import { forgettingFigure, surfaceFigure } from "./figures";
import { dataOf, documentOf } from "./handover";
import { messages } from "./messages";
import { deltaOn, folded, forgettingCurves, surfaceCurves } from "./report";
import { svgOf } from "./svg";
import { matrixTable, type Say } from "./tables";
import { htmlOf, markdownOf } from "./written";

const say: Say = (key, values = {}) => messages[key][0].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name]));
const losses = (...of: (number | null)[]) => of.map((loss, domain) => ({ domain, loss, documents: 1, tokens: 1 }));
const row = (branch: string, role: string, domain: number | null, repeat: number, ...of: (number | null)[]) => ({ branch, branch_id: `id-${branch}`, role, domain, repeat, domains: losses(...of) });
const link = (branch: string, domain: number, ...forgetting: [number, number][]) => ({ branch, branch_id: branch, domain, loss: 3, domains: [], forgetting: forgetting.map(([domain, loss_delta]) => ({ domain, loss_delta })) });
const cost = { parameters_active: 1e6, forward_passes: 2, training_tokens: 1e6, gpu_hours: 0, cpu_slot_hours: 0.5, hours_per_nat: null };
const contestant = (key: string, perplexity: number | null, more = {}) => ({ key, title: `The ${key} | one`, perplexity, perplexity_macro: null, vs_dense: null, vs_dense_macro: null, vs_dense_percent: null, absent: [], spread: null, temperature: null, cost, evaluation_id: "evaluation", domains: [], ...more });
const point = (top_k: number, temperature: number, reported: number | null, chosen = false) => ({ top_k, temperature, reported, calibration: reported, chosen, best_of_top_k: chosen });

const report = {
  experiment_id: "0123", name: "demo <1>", headline: "The ensemble is better.", created_at: "2026-01-01T00:00:00Z",
  basis: { documents_reported: 10, tokens_reported: 1000, documents_calibration: 9, tokens_calibration: 900, repeats: 1, resamples: 100 },
  contestants: [contestant("seed", null, { absent: ["nothing was scored"] }), contestant("ensemble", 20.25, { temperature: 0.1 })],
  domains: [0, 1].map((index) => ({ index, label: `domain & ${index}`, top_terms: [`term-${index}`], documents: 5, documents_held_out: 2, weight: 0.5, tokens: 100, tokens_held_out: 10, share: 0.5 })),
  matrix: [row("dense", "dense", null, 0, 3, 3), row("dense~2", "dense", null, 1, 4, 4), row("expert-0", "expert", 0, 0, 2.9, 3.01), row("expert-0~2", "expert", 0, 1, 3.5, null), row("random-0", "random", null, 0, 3.1, 3.1)],
  surface: [point(2, 1, 3.1), point(2, 0.1, 3, true), point(1, 0.1, 3.2), point(1, 1, null)],
  chains: [{ name: "chain", headline: "It forgot.", links: [link("chain-0", 0), link("chain-1", 1, [0, 0.5]), link("chain-2", 0, [0, -0.01], [1, 0.1], [0, -0.01])] }],
  costs: [{ branch: "dense", branch_id: "d", role: "dense", tokens: 100, wall_seconds: 10, gpu_hours: 0, cpu_slot_hours: 1, checkpoint_bytes: 100, fresh_share: null, tokens_per_second: null }],
  clustering: {}, method: ["Measured."],
} as unknown as Report;
const domain = (index: number, ja: number) => ({ index, sample_documents: 10, languages: [{ language: "ja", share: ja }, { language: "en", share: 1 - ja }], nearest: [{ text: "secret text" }], typical: [], farthest: [] }) as unknown as Domain;
const ensemble = { experts: [{ branch: "expert-0", domain: 0, checkpoint: { id: "checkpoint-0", step: 7 } }], chosen: { top_k: 2, temperature: 0.1 }, storage_url: "s3://place", sequence_length: 64, route_every_tokens: 32 } as unknown as Ensemble;
const experiment = { spec: { corpus: "books: all", seed: { kind: "train", tokens: 1e6 }, tokenizer: { kind: "train", vocab_size: 1000 }, data: { sequence_length: 64 }, training: { learning_rate: 0.01, batch_windows: 8 } } } as unknown as Experiment;
const manner = { threshold: 0.02, hasControls: false };

test("a model is seen against the dense one of the same training", () => {
  const [dense, , first, second] = report.matrix;
  expect([first, second].map((found) => found && deltaOn(report, found, 0)?.toFixed(2))).toEqual(["-0.10", "-0.50"]);
  expect([second && deltaOn(report, second, 1), dense && deltaOn(report, dense, 0)]).toEqual([null, null]);
});

test("controls are folded away, and counted", () => {
  expect(folded(report.matrix, false)).toMatchObject({ count: 3, rows: [{ branch: "expert-0" }, { branch: "expert-0~2" }] });
  expect(folded(report.matrix, true)).toMatchObject({ count: 0, rows: { length: 5 } });
});

test("cells are marked from the threshold on", () => {
  const cells = (threshold: number) => matrixTable(report, say, { threshold, hasControls: true }).rows.find((found) => found.key === "expert-0")?.cells.slice(1).map(({ heat, isOwn, note }) => [heat !== undefined, isOwn, note]);
  expect(cells(0.02)).toEqual([[true, true, "−0.10"], [false, false, "+0.01"]]);
  expect(cells(0)).toEqual([[true, true, "−0.10"], [true, false, "▲ +0.01"]]);
});

test("the surface is a curve for each number of experts, the temperatures in order", () => {
  expect(surfaceCurves(report.surface).map(({ topK, points }) => [topK, points.map((found) => found.reported)])).toEqual([[1, [3.2, null]], [2, [3, 3.1]]]);
});

test("what is forgotten of a domain begins with the link that learned it", () => {
  const [chain] = report.chains;
  expect(chain && forgettingCurves(chain)).toEqual([{ domain: 0, points: [{ at: 0, delta: 0 }, { at: 1, delta: 0.5 }, { at: 2, delta: -0.01 }] }, { domain: 1, points: [{ at: 1, delta: 0 }, { at: 2, delta: 0.1 }] }]);
});

test("figures are drawn within their frame, with their words escaped", () => {
  const [chain] = report.chains;
  const figures = [surfaceFigure(report, say), chain ? forgettingFigure(report, chain, say, 0.02) : null];
  for (const figure of figures) {
    const svg = figure ? svgOf(figure, 400) : "";
    expect(svg).not.toMatch(/NaN|Infinity|domain & /);
    const places = [...svg.matchAll(/cx="([\d.-]+)" cy="([\d.-]+)"/g)].map((found) => [Number(found[1]), Number(found[2])]);
    expect(places.length).toBeGreaterThan(3);
    for (const [x, y] of places) expect((x ?? -1) >= 0 && (x ?? 999) <= 400 && (y ?? -1) >= 0 && (y ?? 999) <= 260).toBe(true);
  }
  expect(surfaceFigure({ ...report, surface: [point(1, 0.1, null)] } as Report, say)).toBeNull();
  expect(forgettingFigure(report, { name: "", headline: "", links: [] }, say, 0)).toBeNull();
});

test("a single value is drawn too", () => {
  const one = surfaceFigure({ ...report, surface: [point(1, 0.1, 3)] } as Report, say);
  expect(one && svgOf(one, 300)).not.toMatch(/NaN|Infinity/);
});

test("the HTML file stands alone, and shows text as text", () => {
  const html = htmlOf(report.name, documentOf(report, say, { ...manner, hasControls: true }), { language: "en", css: "p {}" });
  expect(html).toContain("<title>demo &#60;1&#62;</title>");
  expect(html).not.toMatch(/<script|src=|href=|<link|url\(/);
  expect(html).toContain("random-0");
  expect(html.match(/<svg /g)).toHaveLength(2);
});

test("the Markdown file keeps its tables whole", () => {
  const lines = markdownOf(report.name, documentOf(report, say, manner)).split("\n");
  expect(lines[0]).toBe("# demo \\<1\\>");
  const table = lines.filter((line) => line.startsWith("| The ensemble"));
  expect(table[0]).toContain("\\|");
  expect(lines).toContain("- Measured.");
  const bars = (line: string) => line.replaceAll("\\|", "").split("|").length;
  const head = lines.findIndex((line) => line.startsWith("| Name"));
  expect(bars(lines[head] ?? "")).toBe(bars(lines[head + 2] ?? ""));
});

test("data that is handed on holds no text of the corpus and no address of the store", () => {
  const data = dataOf(report, ensemble, [domain(0, 0.5)]);
  expect(data).not.toMatch(/secret text|s3:/);
  expect(JSON.parse(data)).toMatchObject({ report: { name: "demo <1>" }, ensemble: { experts: [{ branch: "expert-0" }] }, domains: [{ index: 0 }] });
  expect(JSON.parse(dataOf(report, null, []))).toMatchObject({ ensemble: null });
});

test("a model card has a front that is YAML, and says what is not known", () => {
  const card = cardOf({ report, experiment, ensemble, domains: [domain(0, 0.8), domain(1, 0.02)] }, say);
  const [, front, body] = card.split(/^---$/m);
  expect(parse(front ?? "")).toMatchObject({ language: ["en", "ja"], library_name: "transformers", "model-index": [{ results: [{ dataset: { type: "books: all" }, metrics: [{ type: "perplexity", value: 20.25 }] }] }] });
  expect(parse(front ?? "")).not.toHaveProperty("license");
  for (const part of ["checkpoint-0", "under which licence", "senmon --output json ensemble 0123", "nothing was scored"]) expect(body).toContain(part);
  expect(cardOf({ report, experiment, ensemble: null, domains: [] }, say)).not.toContain("senmon-worker");
});

test("a language is told from a share on that is no accident", () => {
  expect(languagesOf([domain(0, 0.02)])).toEqual(["en"]);
  expect(languagesOf([])).toEqual([]);
});

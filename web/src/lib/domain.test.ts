import { expect, test } from "vitest";
import type { Branch, Clustering, Domain, Report } from "./api";
import { contestantsOn, drawersOf, factsTable, modelsOn, qualityTable } from "./domain";
import { tokens } from "./format";
import { messages } from "./messages";
import type { Say } from "./tables";
import type { Table } from "./written";

const say: Say = (key, values = {}) => messages[key][0].replace(/\{(\w+)\}/g, (_, name: string) => String(values[name]));
const texts = (table: Table | null) => table?.rows.map((row) => row.cells.map((cell) => cell.text));
const branch = (name: string, domain: number | null, weights: [number, number][] | null) =>
  ({ name, domain, mixture: weights && { version: 1, weights: weights.map(([of, weight]) => ({ domain: of, weight })) } }) as unknown as Branch;
const losses = (...of: (number | null)[]) => of.map((loss, domain) => ({ domain, loss, documents: 1, tokens: 1 }));

test("who draws from a domain stands by the share of what it draws", () => {
  const all = [branch("dense", null, [[0, 3], [1, 1]]), branch("expert-0", 0, [[0, 1]]), branch("expert-1", 1, [[1, 1]]), branch("expert-1~2", 1, null), branch("average", null, null)];
  expect(drawersOf(all, 1).map((found) => [found.branch.name, found.share])).toEqual([["expert-1", 1], ["expert-1~2", 1], ["dense", 0.25]]);
  expect(drawersOf(all, 7)).toEqual([]);
});

test("a domain's size is told before and after the shards are counted", () => {
  const domain = (more: object) => ({ index: 0, sample_documents: 12, languages: [{ language: "ja", share: 0.75 }], sources: [], ...more }) as unknown as Domain;
  const early = domain({ tokens: null, documents: null, documents_held_out: null });
  expect(texts(factsTable(early, [early], say))).toEqual([["12", "–", "–", "–", "ja 75.0 %", "–"]]);
  const [one, other] = [domain({ tokens: 1000, documents: 20, documents_held_out: 2 }), domain({ tokens: 3000 })];
  expect(texts(factsTable(one, [one, other], say))?.[0]?.slice(0, 4)).toEqual(["20", "2", tokens(1000), "25.0 %"]);
});

test("a figure that there is not has its reason", () => {
  expect(qualityTable({ quality: null } as unknown as Clustering, say)).toBeNull();
  const quality = { silhouette: 0.1234, stability_nmi: null, source_nmi: null, absent: [{ figure: "stability_nmi", why: "one fit only" }] };
  const rows = texts(qualityTable({ quality } as unknown as Clustering, say));
  expect(rows?.slice(0, 2)).toEqual([["Silhouette", "0.123", expect.stringContaining("−1")], [expect.any(String), "–", "one fit only"]]);
});

test("contestants and models stand from the best on, beside dense", () => {
  const contestant = (key: string, ...of: (number | null)[]) => ({ key, title: key, domains: losses(...of), absent: [], branch_id: null });
  const row = (name: string, role: string, domain: number | null, ...of: (number | null)[]) => ({ branch: name, branch_id: `id-${name}`, role, domain, repeat: 0, domains: losses(...of) });
  const report = {
    contestants: [contestant("dense", 3, 2), contestant("ensemble", 2.5, null), contestant("seed", 4, 4)],
    matrix: [row("dense", "dense", null, 3, 2), row("expert-0", "expert", 0, 2.75, 2.5), row("average", "average", null, null, null)],
  } as unknown as Report;
  expect(texts(contestantsOn(report, 0, say))).toEqual([["ensemble", "2.500", "12.18", "−0.500"], ["dense", "3.000", "20.09", "–"], ["seed", "4.000", "54.60", "+1.000"]]);
  expect(texts(contestantsOn(report, 1, say))?.at(-1)).toEqual(["ensemble", "–", "–", "–"]);
  const models = modelsOn(report, 0, say);
  expect(texts(models)).toEqual([["expert-0", "2.750", "−0.250"], ["dense", "3.000", "–"], ["average", "–", "–"]]);
  expect(models.rows.map((found) => found.isStrong)).toEqual([true, false, false]);
});

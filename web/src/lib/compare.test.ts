import { expect, test } from "vitest";
import type { Domain, Experiment, Report } from "./api";
import { figuresOf, lookIn, mapped, namesOf, ownLoss, unlike } from "./compare";
import { differences, flat, folded, lineDiff } from "./diff";

const domain = (index: number, ...top_terms: string[]) => ({ index, label: top_terms.join(), top_terms }) as unknown as Domain;

test("settings are told by their path", () => {
  expect([...flat({ a: 1, b: { c: "x", d: null }, e: [{ k: true }, []], f: {} })]).toEqual([["a", "1"], ["b.c", "x"], ["e.0.k", "true"], ["e.1", "[]"], ["f", "{}"]]);
});

test("only what differs is a difference, and names are none", () => {
  const files = [{ name: "a", training: { rate: 0.1, batch: 8 }, seed: { tokens: 1 } }, { name: "b", training: { rate: 0.2, batch: 8 } }, { name: "c", training: { rate: 0.1, batch: 8 } }];
  expect(differences(files)).toEqual([{ path: "training.rate", values: ["0.1", "0.2", "0.1"] }, { path: "seed.tokens", values: ["1", null, null] }]);
  expect(differences([files[0], files[0]])).toEqual([]);
});

test("lines that stay stay, the others go and come", () => {
  const lines = lineDiff("a\nb\nc\nd", "a\nx\nc\nd\ne");
  expect(lines.map(({ kind, text }) => `${{ same: " ", gone: "-", new: "+" }[kind]}${text}`)).toEqual([" a", "-b", "+x", " c", " d", "+e"]);
  expect(lineDiff("same", "same")).toEqual([{ kind: "same", text: "same" }]);
});

test("applied to the one, a diff is the other", () => {
  let seed = 7;
  const next = () => (seed = (seed * 48271) % 2147483647);
  const text = () => Array.from({ length: 30 }, () => "abcd"[next() % 4]).join("\n");
  for (let round = 0; round < 30; round += 1) {
    const [a, b] = [text(), text()];
    const lines = lineDiff(a, b);
    expect(lines.filter((line) => line.kind !== "new").map((line) => line.text).join("\n")).toBe(a);
    expect(lines.filter((line) => line.kind !== "gone").map((line) => line.text).join("\n")).toBe(b);
  }
});

test("what is the same far from what differs is folded", () => {
  const lines = lineDiff("1\n2\n3\n4\n5\n6", "1\n2\n3\n4\n5\nx");
  expect(folded(lines, 1).map((line) => line?.text ?? null)).toEqual([null, "5", "6", "x"]);
});

test("domains belong together by their terms, each once; of one clustering by number", () => {
  const ones = [domain(0, "law", "court"), domain(1, "cell", "gene"), domain(2, "odd")];
  const others = [domain(0, "gene", "cell"), domain(1, "court", "judge")];
  expect(mapped(ones, others, false).map(({ one, other, shared }) => [one.index, other?.index ?? null, shared])).toEqual([[0, 1, ["court"]], [1, 0, ["cell", "gene"]], [2, null, []]]);
  expect(mapped(ones, [others[0], others[1]].flatMap((found) => found ?? []), true).map(({ other }) => other?.index ?? null)).toEqual([0, 1, null]);
});

test("experiments of one name are told apart", () => {
  expect(namesOf([{ id: "xx-1234", name: "a" }, { id: "yy-5678", name: "a" }, { id: "z", name: "b" }])).toEqual(["a 1234", "a 5678", "b"]);
});

const report = { contestants: [{ key: "dense", title: "Dense" }, { key: "ensemble", title: "Ensemble" }, { key: "ensemble_top_1", title: "Top 1" }], matrix: [{ role: "dense", repeat: 0, domains: [{ domain: 0, loss: 3 }] }, { role: "expert", repeat: 0, domain: 0, domains: [{ domain: 0, loss: 2.5 }] }] } as unknown as Report;

test("main figures stand beside each other, absent where there is no report", () => {
  expect(figuresOf([report, null]).map(({ key, cells }) => [key, cells.map((cell) => cell?.title ?? null)])).toEqual([["dense", ["Dense", null]], ["ensemble", ["Ensemble", null]]]);
  expect(ownLoss(report, 0)).toEqual({ loss: 2.5, against: -0.5 });
  expect([ownLoss(report, 1), ownLoss(null, 0)]).toEqual([null, null]);
});

test("perplexities of other texts or tokens are not compared without a word", () => {
  const experiment = (corpus_id: string, clustering_id: string, vocab_size: number) => ({ corpus_id, clustering_id, spec: { tokenizer: { kind: "train", vocab_size } } }) as unknown as Experiment;
  expect(unlike([experiment("c", "k", 1), experiment("c", "k", 1)])).toEqual([]);
  expect(unlike([experiment("c", "k", 1), experiment("c", "l", 2)])).toEqual(["tokenizer", "heldOutText"]);
  expect(unlike([experiment("c", "k", 1), experiment("d", "k", 1)])).toEqual(["corpus", "tokenizer"]);
  expect(lookIn(0, "dense").stroke).not.toBe(lookIn(1, "dense").stroke);
});

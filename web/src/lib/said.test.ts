import { expect, test } from "vitest";
import examples from "../../../server/protocol/src/said/examples.json";
import type { Said } from "./api";
import { catalogue, inWords, refusal, retold, titled, worded } from "./said";

const plain = (text: string | null) => text?.replaceAll("\u2009", " ") ?? null;

test("what is said is worded as the other programs word it", () => {
  for (const { said, en, ja } of examples as { said: Said; en: string | null; ja: string | null }[]) {
    expect([plain(inWords(said, "en")), plain(inWords(said, "ja"))], said.key).toEqual([en, ja]);
  }
});

test("what this page does not know is told with the text that came with it", () => {
  expect(worded({ key: "of_a_newer_program" }, "The text.", "ja")).toBe("The text.");
  expect(worded({ key: "toString" }, "The text.", "ja")).toBe("The text.");
  expect(worded(null, "The text.", "ja")).toBe("The text.");
  expect(worded({ key: "next_waits" }, "The text.", "ja")).toBe("再開されるのを待ちます。");
});

test("a refusal is told by its faults, else by what it says, else as it came", () => {
  const faults = [{ path: "priority", message: "found 101, expected at most 100", said: { key: "found_expected", values: { found: 101, expected: { key: "expected_at_most", values: { most: 100 } } } } }, { path: "name", message: "Old." }];
  expect(refusal({ sentence: "…", said: null, faults }, "ja")).toBe("priority: 100 以下の値を指定してください（指定値: 101）；name: Old.");
  expect(refusal({ sentence: "…", said: null, faults }, "en")).toBe("priority: found 101, expected at most 100; name: Old.");
  expect(refusal({ sentence: "the experiment is over already", said: { key: "experiment_over" }, faults: [] }, "ja")).toBe("実験はすでに終了しています");
  expect([refusal({ sentence: "Old.", said: null }, "ja"), refusal({ sentence: null }, "ja")]).toEqual(["Old.", null]);
});

test("titles of jobs are words too", () => {
  expect([titled("train expert-3", "ja"), titled("train expert-3", "en"), titled("something else", "ja")]).toEqual(["expert-3 の学習", "train expert-3", "something else"]);
});

test("a report is told in the language, and what it lacks stays as it is", () => {
  const report = { name: "next_waits", headline: "It waits.", headline_said: { key: "next_waits" }, chains: [{ headline: "Old.", headline_said: null }], method: ["a", "b"], method_said: [{ key: "chain_nothing" }, { key: "of_a_newer_program" }] };
  const { headline, chains, method, name } = retold(report, "ja");
  expect([headline, chains[0]?.headline, method, name]).toEqual(["再開されるのを待ちます。", "Old.", ["チェーンの段は 1 つも完了しませんでした。", "b"], "next_waits"]);
  expect(report.headline).toBe("It waits.");
});

test("every message has both languages and the same values in both", () => {
  const values = (text: string) => [...new Set([...text.matchAll(/\{(\w+)[^}]*\}/g)].map(([, name]) => name))].sort();
  expect(Object.keys(catalogue).length).toBeGreaterThan(100);
  for (const [key, { en, ja }] of Object.entries(catalogue)) {
    expect(en.trim() && ja.trim(), key).toBeTruthy();
    expect(values(en), key).toEqual(values(ja));
  }
});

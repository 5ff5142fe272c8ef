import { expect, test } from "vitest";
import demo from "../../../configs/experiments/demo.yaml?raw";
import plan from "../../../configs/experiments/h100-10b.yaml?raw";
import llama10b from "../../../configs/models/llama-10b.yaml?raw";
import llama17m from "../../../configs/models/llama-17m.yaml?raw";
import tiny from "../../../configs/models/tiny-1m.yaml?raw";
import quick from "../../../configs/experiments/quick.yaml?raw";
import smollm2 from "../../../configs/experiments/smollm2.yaml?raw";
import { corrected, notesOf, stacked, wordsOf } from "./faults";
import { pathOf, readFile, valueAt, withValue, type Path } from "./file";
import { byRole } from "./plan";
import { distance, meant } from "./spelling";
import { BEGINNING, fanOut, sizeOf, sizes, withKind, withSize } from "./start";
import { typed } from "./typed";

const FILE = `name: quick # mine
corpus: demo
training:
  learning_rat: 0.003
plan:
  - kind: fan_out
    tokens: 600Q
  - kind: tree
    branches: [{ name: a, mixture: { 0: 1 } }]
`;

test("a path leads to its line, or as far as it goes", () => {
  const at = (path: string, message = "") => notesOf(readFile(FILE), [{ path, message }])[0]?.line;
  expect(pathOf("plan[10].training.x")).toEqual(["plan", 10, "training", "x"]);
  expect([at("corpus"), at("plan[0].tokens"), at("plan[1].branches[0].mixture"), at("plan[1].nothing")]).toEqual([2, 7, 9, 8]);
  expect([at("experiment.training.learning_rat"), at("body"), at("experiment"), at("model")]).toEqual([4, null, null, null]);
});

test("a word that a message names is found below its path, and what was meant is told", () => {
  const note = (path: string, message: string) => notesOf(readFile(FILE), [{ path, message }])[0];
  expect(note("experiment.training", "unknown field `learning_rat`, expected one of `batch_windows`, `learning_rate` at line 1 column 80")).toMatchObject({ line: 4, hint: "learning_rate", path: "training", message: "unknown field `learning_rat`, expected one of `batch_windows`, `learning_rate`" });
  expect(note("experiment.training.learning_rat", "unknown field `learning_rat`, expected one of `batch_windows`, `learning_rate`")).toMatchObject({ line: 4, hint: "learning_rate" });
  expect(note("experiment.plan[0]", 'token count "600Q": expected a whole number')).toMatchObject({ line: 7, hint: null });
  expect(note("corpus", 'found "demo", expected the name or id of a registered corpus (demos, other)')).toMatchObject({ line: 2, hint: "demos" });
  expect(note("corpus", 'found "demo", expected the name or id of a registered corpus (none is registered)')?.hint).toBeNull();
  expect(note("training", "unknown field `learning_rat`; did you mean `learning_rate`?, expected `learning_rate`")?.hint).toBeNull();
});

test("what was meant takes the place of what was written, and nothing else changes", () => {
  const [note] = notesOf(readFile(FILE), [{ path: "training", message: "unknown field `learning_rat`, expected `learning_rate`" }]);
  expect(note && corrected(FILE, note)).toBe(FILE.replace("learning_rat:", "learning_rate:"));
  expect(wordsOf("unknown variant `fair`, expected `equal` or `proportional`")).toEqual({ word: "fair", accepted: ["equal", "proportional"] });
  expect(wordsOf("missing field `corpus`")).toEqual({ word: null, accepted: [] });
});

test("what cannot be read says where", () => {
  expect(readFile("a: 1\nb: [1, 2\n").fault?.line).toBeGreaterThan(1);
  expect(readFile("a: 1\na: 2\n").fault?.line).toBe(2);
  const bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]", ...[1, 2, 3, 4].map((i) => `a${i}: &a${i} [${Array(10).fill(`*a${i - 1}`).join(", ")}]`)].join("\n");
  expect(readFile(bomb)).toMatchObject({ value: undefined, fault: { line: 1 } });
});

test("the shipped files are read as the server reads them", () => {
  for (const text of [demo, quick, plan, smollm2]) expect(readFile(text)).toMatchObject({ fault: null, value: { corpus: expect.any(String) } });
  const { value } = readFile("tokens: 989e12\nwhen: 2026-01-01T00:00:00Z\nyes: no\nweights: { 0: 1 }\n");
  expect(JSON.parse(JSON.stringify(value))).toEqual({ tokens: 989e12, when: "2026-01-01T00:00:00Z", yes: "no", weights: { 0: 1 } });
});

test("a value is changed in place; comments and the rest stay", () => {
  const check = (path: Path, value: string | number | object | undefined, from: string, to: string) => expect(withValue(FILE, path, value)).toBe(FILE.replace(from, to));
  check(["name"], "slow", "name: quick #", "name: slow #");
  check(["name"], "a: b", "name: quick #", 'name: "a: b" #');
  check(["name"], "12", "name: quick #", 'name: "12" #');
  check(["plan", 0, "tokens"], "3M", "600Q", "3M");
  check(["corpus"], undefined, "corpus: demo\n", "");
  check(["training", "batch_windows"], 8, "0.003\n", "0.003\n  batch_windows: 8\n");
  check(["training"], { batch_windows: 8 }, "learning_rat: 0.003", "batch_windows: 8");
  check(["plan", 0, "share"], "equal", "600Q\n", "600Q\n    share: equal\n");
  check(["nothing"], undefined, "", "");
  expect(withValue(demo, ["controls", "dense"], false)).toBe(demo.replace("dense: true", "dense: false"));
  expect(withValue(demo, ["evaluation", "repeats"], 2)).toBe(demo.replace("0.5, 1.0]\n", "0.5, 1.0]\n  repeats: 2\n"));
  const more = withValue(FILE, ["clustering", "domains"], 4);
  expect(valueAt(readFile(more), ["clustering"])).toEqual({ domains: 4 });
  expect(more).toContain("# mine");
  expect([withValue("", ["a", "b"], 1), withValue("a:\n", ["a"], 1), withValue("a: [", ["a"], 1)]).toEqual(["a:\n  b: 1\n", "a: 1\n", "a: ["]);
});

test("words are near by letters that are wrong, missing, too many or swapped", () => {
  expect([distance("abc", "abc"), distance("abc", "abd"), distance("abc", "ab"), distance("abcd", "abdc"), distance("", "ab")]).toEqual([0, 1, 1, 1, 2]);
  expect(meant("learning-rate", ["learning_rate", "beta1"])).toBe("learning_rate");
  expect(meant("sheduel", ["schedule", "seed"])).toBe("schedule");
  expect([meant("colour", ["beta1", "slots"]), meant("x", []), meant("seed", ["seed"])]).toEqual([null, null, null]);
});

test("notes stand beside their lines and not over each other", () => {
  expect(stacked([0, 18, 200], [40, 20, 20], 4)).toEqual([0, 44, 200]);
});

test("the shapes to choose from are those of the shipped files", () => {
  const shipped = { "tiny-1m": tiny, "llama-17m": llama17m, "llama-10b": llama10b };
  for (const [name, text] of Object.entries(shipped)) expect(readFile(text).value).toEqual(sizes[name]);
  expect([demo, quick, smollm2, BEGINNING].map((text) => sizeOf(readFile(text)))).toEqual(["tiny-1m", "quick-0.1m", null, "tiny-1m"]);
});

test("a choice changes what hangs on it, and nothing else", () => {
  const small = readFile(withSize(demo, "quick-0.1m"));
  expect([sizeOf(small), valueAt(small, ["data", "sequence_length"]), valueAt(small, ["training", "batch_windows"])]).toEqual(["quick-0.1m", 128, 16]);
  const continued = withKind(BEGINNING, "seed", "checkpoint");
  expect(readFile(continued).value).toMatchObject({ seed: { kind: "checkpoint", path: "" }, tokenizer: { kind: "file", path: "" }, plan: [{ kind: "fan_out" }] });
  expect(valueAt(readFile(continued), ["model"])).toBeUndefined();
  expect(sizeOf(readFile(withKind(continued, "seed", "train")))).toBe("tiny-1m");
  expect(withKind(demo, "seed", "train")).toBe(demo);
  expect([fanOut(readFile(demo)), fanOut(readFile(smollm2)), fanOut(readFile("plan: 3"))]).toEqual([["plan", 0, "tokens"], null, null]);
  expect([typed("12"), typed("3.3M"), typed(" "), typed("1e3")]).toEqual([12, "3.3M", "", 1000]);
});

test("a plan is told by roles", () => {
  const branch = (role: string, tokens: number) => ({ role, tokens, steps: 2 });
  const rows = byRole([branch("seed", 5), branch("expert", 1), branch("expert", 2)] as Parameters<typeof byRole>[0]);
  expect(rows).toEqual([{ role: "seed", count: 1, tokens: 5, steps: 2 }, { role: "expert", count: 2, tokens: 3, steps: 4 }]);
});

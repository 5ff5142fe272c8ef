import { expect, test } from "vitest";
import type { Summary } from "./api";
import { colour, look, palette } from "./curves";
import { checkpointMark } from "./marks";
import { partsOf } from "./progress";

const stage = (name: Summary["stages"][number]["stage"], state: Summary["stages"][number]["state"], done: number, total: number) => ({ stage: name, state, done, total, unit: "" });

test("the branches begin where the seed's tokens end, and what is under way is named", () => {
  const stages = [stage("discover", "done", 1, 1), stage("seed", "done", 300, 300), stage("branches", "running", 100, 700), stage("evaluate", "waiting", 0, 25)];
  expect(partsOf({ stages, state: "running", tokens_total: 1000 })).toEqual({ marks: [{ stage: "branches", at: 0.3 }], now: { stage: "branches", of: "" } });
  const late = [...stages.slice(0, 2), stage("branches", "done", 700, 700), stage("evaluate", "running", 3, 25)];
  expect(partsOf({ stages: late, state: "running", tokens_total: 1000 }).now).toEqual({ stage: "evaluate", of: " 3/25" });
  expect(partsOf({ stages: late, state: "cancelled", tokens_total: 1000 }).now).toBeNull();
  // A seed from outside trains nothing.
  expect(partsOf({ stages: [stage("branches", "running", 0, 700)], state: "running", tokens_total: 700 }).marks).toEqual([]);
});

function luminance(hex: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * (r ?? 0) + 0.7152 * (g ?? 0) + 0.0722 * (b ?? 0);
}

test("every curve is seen on both grounds, at least 3:1", () => {
  const strokes = [...palette, ...["seed", "dense", "random", "tree", "average"].map((role) => look(role, null).stroke)];
  for (const ground of ["#ffffff", "#101216"]) for (const stroke of strokes) {
    const [high = 0, low = 0] = [luminance(stroke), luminance(ground)].sort((a, b) => b - a);
    expect([stroke, ground, (high + 0.05) / (low + 0.05) >= 3]).toEqual([stroke, ground, true]);
  }
});

test("experts of one colour have other dashes", () => {
  expect(colour(1)).toBe(colour(11));
  expect(look("expert", 1)).not.toEqual(look("expert", 11));
  expect(look("expert", 11)).not.toEqual(look("expert", 21));
});

test("a checkpoint's mark says whether it was read again", () => {
  const row = (more: object) => ({ meta: { step: 5, tokens: 50 }, created_at: "1970-01-01T00:00:01Z", ...more }) as Parameters<typeof checkpointMark>[0];
  const of = (more: object) => checkpointMark(row(more), { tokens: 0, ms: 0 }, "x");
  expect([of({}).glyph, of({ verified_at: "x" }).glyph, of({ verified_at: "x", problem: "bad" }).glyph, of({ problem: "bad" }).tone]).toEqual(["·", "✓", "✕", "bad"]);
});

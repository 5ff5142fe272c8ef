import { expect, test } from "vitest";
import { heat, look } from "./curves";
import { ago, bytes, duration, figure, percent, ticks, timeTicks, tokens, whole } from "./format";
import { gather, markOn, marks } from "./marks";
import { messages } from "./messages";

test("numbers are written for people", () => {
  expect(tokens(16_400_000)).toBe("16.4\u2009M");
  expect(tokens(12)).toBe("12");
  expect(whole(41200)).toBe("41\u2009200");
  expect(duration(200)).toBe("3:20");
  expect(duration(3909)).toBe("1:05:09");
  expect(percent(-3)).toBe("−3.0\u2009%");
  expect([figure(1.234, 2), figure(null, 2), figure(undefined, 2), figure(NaN, 2)]).toEqual(["1.23", "–", "–", "–"]);
  expect(bytes(2 ** 21)).toBe("2.0\u2009MiB");
  expect(ago("2026-01-01T00:00:00Z", Date.parse("2026-01-01T00:03:10Z"))).toEqual({ count: 3, unit: "min" });
});

test("numbers along an axis differ", () => {
  expect(ticks([0, 1e6, 2e6])).toEqual(["0", "1\u2009M", "2\u2009M"]);
  expect(ticks([975_000, 1_000_000, 1_025_000])).toEqual(["0.975\u2009M", "1.000\u2009M", "1.025\u2009M"]);
  expect(ticks([0, 0.5, 1])).toEqual(["0", "0.5", "1"]);
  expect(ticks([3_700_000, 3_750_000])).toEqual(["3.70\u2009M", "3.75\u2009M"]);
  expect(ticks([3_700_010, 3_700_020])).toEqual(["3.70001\u2009M", "3.70002\u2009M"]);
});

test("moments along an axis are told by the clock, and the day once", () => {
  const at = (hours: number, minutes: number, seconds = 0) => new Date(2026, 10, 27, hours, minutes, seconds).getTime() / 1000;
  expect(timeTicks([at(23, 30), at(23, 45), at(24, 0)])).toEqual(["23:30\n11-27", "23:45", "00:00\n11-28"]);
  expect(timeTicks([at(1, 0), at(1, 0, 30)])[1]).toBe("01:00:30");
});

test("controls are grey and dashed, experts coloured by domain", () => {
  expect(look("dense", null).dash).not.toEqual([]);
  expect(look("expert", 1).stroke).toBe(look("chain", 1).stroke);
  expect(heat(-1)).toContain("10,122,75");
});

test("every sentence exists in both languages", () => {
  for (const [key, pair] of Object.entries(messages)) {
    expect(pair[0].length && pair[1].length, key).toBeGreaterThan(0);
  }
});

test("what happened has a place on the axis, in words; close marks become one", () => {
  const event = (kind: string, step: number | null, level = "info") => ({ id: 1, at: "2026-01-01T00:00:00Z", kind, level, text: `${kind} ${step}`, experiment_id: null, branch_id: null, worker_id: null, step });
  const events = [event("checkpoint_committed", 10), event("attempt_resumed", 11), event("rolled_back", 90, "warn"), event("worker_lost", null)];
  const all = marks(events, 100);
  expect(all.map((mark) => [mark.tokens, mark.tone])).toEqual([[1000, ""], [1100, ""], [9000, "warn"]]);
  expect(marks(events, 100, "few")).toHaveLength(2);
  const [late] = marks(events, 100, "all", { tokens: 5000, ms: Date.parse("2025-12-31T23:59:00Z") });
  expect(late && [markOn("lineage", late), markOn("tokens", late), markOn("steps", late), markOn("relative", late)]).toEqual([6000, 1000, 10, 60]);
  const [first, second] = gather(all.map((mark) => ({ x: mark.step, mark })), 12);
  expect(first?.texts).toEqual(["checkpoint_committed 10", "attempt_resumed 11"]);
  expect([first?.glyph, second?.texts.length]).toEqual(["↻", 1]);
});

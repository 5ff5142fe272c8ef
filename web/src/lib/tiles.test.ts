import { expect, test } from "vitest";
import type { Frame } from "./draw";
import { TILE, frameOf, placesOf, scaleOf, serves } from "./tiles";
import { around } from "./zoom";

const frame: Frame = { left: 60, top: 8, width: 700, height: 300, ratio: 1, from: 1e9, to: 1e9 + 7e6, low: 0, high: 4, isLog: false };
const moved = (by: number): Frame => ({ ...frame, from: frame.from + by, to: frame.to + by });

test("a pan is served by the tiles that there are, a zoom and another range are not", () => {
  const scale = scaleOf(frame);
  // As panning by parts of the width rounds it.
  expect([serves(scale, moved(123_456.789)), serves(scale, moved(-3e7))]).toEqual([true, true]);
  expect([serves(scale, { ...frame, to: frame.to + 7000 }), serves(scale, { ...frame, high: 5 }), serves(scale, { ...frame, isLog: true }), serves(scale, { ...frame, ratio: 2 })]).toEqual([false, false, false, false]);
});

test("tiles cover the plot without a gap, on whole pixels, wherever it is", () => {
  const scale = scaleOf(frame);
  for (const by of [0, 1, -1, 5_000_000, -123_456_789, 77_777.7]) {
    const places = placesOf(scale, moved(by));
    expect(places[0]?.left).toBeLessThanOrEqual(0);
    expect((places.at(-1)?.left ?? 0) + TILE).toBeGreaterThanOrEqual(frame.width);
    places.forEach(({ index, left }, i) => {
      expect(Number.isInteger(left)).toBe(true);
      if (i > 0) expect([index, left]).toEqual([(places[i - 1]?.index ?? 0) + 1, (places[i - 1]?.left ?? 0) + TILE]);
    });
  }
});

test("a tile shows what the plot would show in its place, to half a pixel", () => {
  const scale = scaleOf(frame);
  const now = moved(2_345_678);
  const across = now.width / (now.to - now.from);
  for (const { index, left } of placesOf(scale, now)) expect(Math.abs((frameOf(scale, index).from - now.from) * across - left)).toBeLessThanOrEqual(0.5 + 1e-6);
});

test("a group is made anew only where a moving view leaves what was made", () => {
  const view = { axis: "tokens" as const, from: 100, to: 200 };
  const made = around(view, null);
  expect([made.from, made.to]).toEqual([0, 300]);
  expect(around({ ...view, from: 190, to: 290 }, made)).toBe(made);
  expect(around({ ...view, from: 250, to: 350 }, made)).toEqual({ axis: "tokens", from: 150, to: 450 });
  // Zoomed in, it would be too coarse.
  expect(around({ ...view, from: 140, to: 150 }, made).to).toBe(160);
});

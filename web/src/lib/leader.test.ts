import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { stand } from "./leader";

// A browser without Web Locks, whose tabs share one storage.
beforeEach(() => {
  vi.useFakeTimers();
  const kept = new Map<string, string>();
  vi.stubGlobal("navigator", {});
  vi.stubGlobal("localStorage", { getItem: (key: string) => kept.get(key) ?? null, setItem: (key: string, value: string) => kept.set(key, value), removeItem: (key: string) => kept.delete(key) });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function tab(name: string, leading: Set<string>) {
  return stand("test", (until) => {
    leading.add(name);
    until.addEventListener("abort", () => leading.delete(name));
  });
}

test("without locks one tab leads; another follows when it lets go, or seizes the lead", () => {
  const leading = new Set<string>();
  const a = tab("a", leading);
  const b = tab("b", leading);
  vi.advanceTimersByTime(5000);
  expect([...leading]).toEqual(["a"]);
  a.stop();
  vi.advanceTimersByTime(5000);
  expect([...leading]).toEqual(["b"]);
  const c = tab("c", leading);
  c.seize();
  vi.advanceTimersByTime(5000);
  expect([...leading]).toEqual(["c"]);
  b.stop();
  c.stop();
  expect(leading.size).toBe(0);
});

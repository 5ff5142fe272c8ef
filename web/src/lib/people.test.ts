import { expect, test } from "vitest";
import { ApiError, failureOf, type Branch, type Problem, type Stage } from "./api";
import { changes, linkOf } from "./audit";
import { kindsOf, matches, ordered } from "./lists";
import { stagesOf, underWay, without } from "./stages";

const stage = (name: string, state: string) => ({ stage: name, state, done: 0, total: 1, unit: "" }) as Stage;
const branch = (name: string, state: string) => ({ name, state }) as Branch;

test("rows are found by all words of a query, in any of their texts", () => {
  expect(matches(["Expert-3", null, "shell, options"], "shell EXP")).toBe(true);
  expect(matches(["Expert-3"], "shell")).toBe(false);
  expect(matches([], "")).toBe(true);
  expect(kindsOf([{ s: "b" }, { s: "a" }, { s: "b" }], (row) => row.s)).toEqual(["a", "b"]);
});

test("rows without a value come last, whichever way they are ordered; equal ones stay as they came", () => {
  const rows = [{ n: "a", v: null }, { n: "b", v: 2 }, { n: "c", v: 10 }, { n: "d", v: 2 }];
  const names = (of: typeof rows) => of.map((row) => row.n).join("");
  expect(names(ordered(rows, { by: (row) => row.v }))).toBe("bdca");
  expect(names(ordered(rows, { by: (row) => row.v, isDescending: true }))).toBe("cbda");
  expect(ordered(["x10", "x9"], { by: (row) => row })).toEqual(["x9", "x10"]);
  expect(ordered(rows, undefined)).toBe(rows);
});

test("stages end with their experiment", () => {
  const stages = [stage("seed", "done"), stage("branches", "running"), stage("evaluate", "waiting")];
  const states = (state: "running" | "paused" | "cancelled") => stagesOf({ state, stages }).map((found) => found.state);
  expect(states("running")).toEqual(["done", "running", "waiting"]);
  expect(states("paused")).toEqual(["done", "paused", "waiting"]);
  expect(states("cancelled")).toEqual(["done", "stopped", "skipped"]);
});

test("a stage whose jobs all wait for a slot waits", () => {
  const stages = [stage("branches", "done"), stage("evaluate", "running")];
  const last = (...jobs: { kind: "evaluate" | "train"; state: "queued" | "running" }[]) => stagesOf({ state: "running", stages }, jobs)[1]?.state;
  expect(last({ kind: "evaluate", state: "queued" })).toBe("queued");
  expect(last({ kind: "evaluate", state: "queued" }, { kind: "evaluate", state: "running" })).toBe("running");
  expect(last({ kind: "train", state: "queued" })).toBe("running");
  expect(last()).toBe("running");
});

test("what a completed experiment goes without, and what a cancellation stops", () => {
  const branches = [branch("a", "completed"), branch("b", "cancelled"), branch("c", "queued")];
  expect(without({ state: "completed", branches }).map((found) => found.name)).toEqual(["b"]);
  expect(without({ state: "running", branches })).toEqual([]);
  expect(underWay(branches).map((found) => found.name)).toEqual(["c"]);
});

test("an entry of the audit tells what changed, and of what was made what it is", () => {
  expect(changes({ before: { state: "running", priority: 50 }, after: { state: "cancelled", priority: 50 } })).toEqual([{ key: "state", before: "running", after: "cancelled" }]);
  expect(changes({ before: {}, after: { name: "x", deadline: null } })).toEqual([{ key: "name", before: undefined, after: "x" }]);
  expect(changes({ before: null, after: null })).toEqual([]);
  const id = "01a21cc6-22c3-7200-9e85-d3c8de1ad6f8";
  expect(linkOf({ operation: "POST /experiments/{id}/cancel", target: id })).toBe(`experiments/${id}`);
  expect(linkOf({ operation: "DELETE /tokens/{id}", target: id })).toBeNull();
});

test("a failure has the server's sentence and the id to quote, or is known as no answer", () => {
  const problem: Problem = { type: "", code: "conflict", title: "", status: 409, detail: "it is over", faults: [], request_id: "r" };
  expect(failureOf(new ApiError(problem))).toEqual({ sentence: "it is over", said: null, faults: [], id: "r", status: 409 });
  expect(failureOf(new ApiError({ ...problem, status: 502, detail: "HTTP 502", request_id: "" })).sentence).toBeNull();
  expect(failureOf(new TypeError("Failed to fetch")).sentence).toBeNull();
});

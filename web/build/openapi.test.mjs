import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { found } from "../src/lib/docs.ts";
import { client, curlOf, exampleOf, grouped, operationsOf, pythonOf, rowsOf } from "../src/lib/openapi.ts";

const root = new URL("../..", import.meta.url).pathname;
const document = JSON.parse(readFileSync(`${root}server/openapi.json`, "utf8"));
const all = operationsOf(document);
const of = (id) => all.find((operation) => operation.id === id) ?? expect.fail(id);

test("every operation has a group, words, an answer, and the refusals that it may get", () => {
  expect(all.length).toBeGreaterThan(70);
  for (const operation of all) expect([operation.id, operation.group !== "", operation.summary !== "", operation.answers.length > 0, operation.errors.every(({ description }) => description !== "")]).toEqual([operation.id, true, true, true, true]);
  expect(grouped(all).reduce((sum, [, operations]) => sum + operations.length, 0)).toBe(all.length);
});

test("a schema is told field by field, and one that contains itself ends", () => {
  const rows = rowsOf(of("post_branches_id_fork").body, document);
  expect(rows.filter(({ depth, isRequired }) => depth === 0 && isRequired).map(({ path }) => path)).toEqual(["name", "tokens"]);
  expect(rows.find(({ path }) => path === "checkpoint_id")?.type).toContain("uuid");
  for (const operation of all) for (const { schema } of operation.answers) expect(rowsOf(schema, document).length).toBeLessThan(400);
});

test("an example has what must be there", () => {
  expect(Object.keys(exampleOf(of("post_branches_id_fork").body, document))).toEqual(["name", "tokens"]);
});

test("what is typed names server, path, token and key", () => {
  const curl = curlOf(of("post_branches_id_fork"), document, "http://x:1");
  expect(curl).toContain('-X POST "http://x:1/api/v1/branches/$ID/fork"');
  expect(curl).toMatch(/Bearer \$SENMON_TOKEN[\s\S]*Idempotency-Key[\s\S]*"name":"…"/);
  expect(curlOf(of("get_fleet"), document, "")).not.toMatch(/-X|Idempotency|-d /);
  const python = pythonOf(of("post_branches_id_fork"), document, "http://x:1");
  expect(python).toMatch(/^import os\nimport uuid\n\nimport httpx\n\nid = "…"\nanswer = httpx.request\(\n {4}"POST",\n {4}f"http:\/\/x:1\/api\/v1\/branches\/\{id\}\/fork",/);
  expect(pythonOf(of("get_experiments"), document, "http://x:1")).toContain("client.experiments()");
});

test("the package has what is said of it, for operations that there are", () => {
  const source = readFileSync(`${root}server/python/src/senmon/client.py`, "utf8");
  for (const [id, call] of Object.entries(client)) {
    of(id);
    const name = /client\.(\w+)\(/.exec(call)?.[1] ?? "";
    expect([id, source.includes(`    def ${name}(`)]).toEqual([id, true]);
  }
});

const section = (name, heading, text, language = "en") => ({ name, language, title: name, anchor: heading, heading, text });

test("a search finds sections with all its words, heads first, in the reader's language where there is one", () => {
  const sections = [section("a", "Stores", "a bucket and a folder"), section("b", "Buckets", "one bucket, S3"), section("c", "x", "バケット", "ja"), section("c", "x", "bucket")];
  expect(found(sections, "bucket", "en", 9).map(({ name, anchor }) => [name, anchor])).toEqual([["b", "Buckets"], ["a", "Stores"], ["c", "x"]]);
  expect(found(sections, "bucket folder", "en", 9).map(({ name }) => name)).toEqual(["a"]);
  expect(found(sections, "バケット", "ja", 9).map(({ name }) => name)).toEqual(["c"]);
  const [first] = found(sections, "S3", "en", 9);
  expect([first?.before, first?.hit, first?.after]).toEqual(["one bucket, ", "S3", ""]);
  expect(found(sections, "  ", "en", 9)).toEqual([]);
});

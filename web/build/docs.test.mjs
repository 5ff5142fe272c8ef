import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { addressOf, anchorOf, nameOf, pageOf, pagesOf } from "./docs.mjs";

const root = new URL("../..", import.meta.url).pathname.replace(/\/$/, "");

test("a file has an address, the same in both languages", () => {
  expect(["docs/README.md", "docs/how-to/fleet.md", "docs/how-to/fleet.ja.md", "ARCHITECTURE.md", "server/python/README.md", "configs/server.toml"].map(nameOf)).toEqual(["", "how-to/fleet", "how-to/fleet", "ARCHITECTURE", "server/python", "configs/server.toml"]);
});

test("anchors are those that links in the documents name", () => {
  const taken = new Map();
  expect(["`plan` (kind: `fan_out`)", "What it does not do", "再開 と 検証", "What it does not do"].map((text) => anchorOf(text.replaceAll("`", ""), taken))).toEqual(["plan-kind-fan_out", "what-it-does-not-do", "再開-と-検証", "what-it-does-not-do-1"]);
});

test("a link leads to a page, to another host, or is none", () => {
  const known = new Set(["docs/how-to/fleet.md", "docs/CUDA.md", "docs/README.md"]);
  const of = (link) => addressOf(link, "docs/how-to/fleet.md", known);
  expect(["../CUDA.md#cards", "#one", "../README.md", "https://x.example/a", "../../server/openapi.json", "gone.md"].map(of)).toEqual(["docs/CUDA#cards", "docs/how-to/fleet#one", "docs", "https://x.example/a", "api", null]);
});

test("what stands in a page is text, never a page of its own", () => {
  const page = pageOf("docs/x.md", '# T\n\n<!-- a -->\n<script>alert(1)</script> `<b>` [x](javascript:alert(1)) ![a "b](p.png)\n\n## Two\n\n```\na < b\n```\n', new Set());
  expect(page.html).not.toMatch(/<script|href="javascript|<b>/);
  expect(page.html).toContain("a &lt; b");
  expect([page.title, page.headings, page.pictures]).toEqual(["T", [{ level: 2, anchor: "two", text: "Two" }], ["docs/p.png"]]);
  expect(page.sections.map(({ heading, text }) => [heading, text.includes("a < b")])).toEqual([["", false], ["Two", true]]);
});

test("every link between the documents leads to a page and to a heading that is there", () => {
  const pages = pagesOf(root);
  expect(pages.length).toBeGreaterThan(30);
  const idsOf = (page) => new Set([...page.html.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id));
  const found = new Map(pages.map((page) => [`${page.language} ${page.name}`, idsOf(page)]));
  const broken = [];
  for (const page of pages) {
    for (const picture of page.pictures) if (!existsSync(`${root}/${picture}`)) broken.push(`${page.name}: ${picture}`);
    for (const [, href] of page.html.matchAll(/<a href="([^"]*)"/g)) {
      if (/^[a-z]+:/.test(href) || href === "api") continue;
      const [path, anchor] = decodeURI(href).split("#");
      const ids = found.get(`${page.language} ${path.replace(/^docs\/?/, "")}`) ?? found.get(`en ${path.replace(/^docs\/?/, "")}`);
      if (!ids || (anchor && !ids.has(anchor))) broken.push(`${page.name}: ${href}`);
    }
  }
  expect(broken).toEqual([]);
});

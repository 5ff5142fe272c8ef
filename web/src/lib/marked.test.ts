import { expect, test } from "vitest";
import { hasAll, labelsOf, textOf, toggled } from "./labels";
import { htmlOf } from "./markdown";

test("labels are typed between commas", () => {
  expect(labelsOf(" overnight, team=speech、overnight,, two words\n")).toEqual(["overnight", "team=speech", "two words"]);
  expect(labelsOf(textOf(["a", "b=c"]))).toEqual(["a", "b=c"]);
  expect(hasAll(["a", "b"], [])).toBe(true);
  expect(hasAll(["a", "b"], ["b", "c"])).toBe(false);
  expect(toggled(toggled(["a"], "b"), "a")).toEqual(["b"]);
});

test("a note is formatted", () => {
  const html = htmlOf("# Why\n\nThe tokenizer was **too small**; see [the paper](https://example.org/a).\n\n| a | b |\n| - | - |\n| 1 | 2 |");
  for (const part of ["<h3>Why</h3>", "<strong>too small</strong>", 'href="https://example.org/a" target="_blank" rel="noreferrer nofollow"', '<div class="scroll" tabindex="0"><table>']) expect(html).toContain(part);
});

test("a note runs nothing and asks no other host", () => {
  for (const text of ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "[a](data:text/html,x)", "[a](JaVaScRiPt&colon;alert(1))", "![a](https://example.org/a.png)", "<https://example.org/\"onmouseover=alert(1)>", "```\n</code><script>\n```"]) {
    const html = htmlOf(text);
    expect(html).not.toMatch(/<(script|img|iframe|svg|style)|<[^>]* on\w+=|href="(javascript|data|vbscript):/i);
  }
});

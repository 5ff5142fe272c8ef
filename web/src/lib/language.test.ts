// No component says a sentence of its own: what people read is in the message files, in both languages.
import { parse } from "svelte/compiler";
import ts from "typescript";
import { expect, test } from "vitest";

/** Names and units, the same in every language. */
const NAMES = /\b(?:Senmon|PNG|CSV|JSON|YAML|Python|curl|Esc|CPU|nats|tokens\/s|openapi\.json)\b|WDJB-MJHT|smn_…/g;
/** Attributes that people read, or hear. */
const READ = ["title", "aria-label", "aria-description", "placeholder", "alt", "label"];
/** Texts that are compared with what the server said in English, and shown to nobody. */
const COMPARED = ["none is registered"];

const hasWord = (text: string) => /\p{L}{3,}/u.test(text.replace(NAMES, ""));
/** Three words, or two and a full stop; a shell command has its flags, or its name. */
const isSentence = (text: string) => /\p{L}{2,} \p{Ll}{2,}(?: \p{Ll}{2,}|\.)|[\u3040-\u30ff]/u.test(text) && !/ --|senmon-worker /.test(text) && !COMPARED.includes(text);

/** What stands between the tags of a component, and in the attributes that people read. */
function texts(source: string): string[] {
  const found: string[] = [];
  const walk = (node: unknown, isRead: boolean): void => {
    if (Array.isArray(node)) return node.forEach((item) => walk(item, isRead));
    if (typeof node !== "object" || node === null) return;
    const { type, name, value, data } = node as Record<string, unknown>;
    if (type === "Text" && isRead) found.push(String(data));
    else if (type === "Attribute") walk(value, READ.includes(String(name)));
    else if (type !== "Comment") Object.values(node).forEach((child) => walk(child, isRead));
  };
  walk(parse(source, { modern: true }).fragment, true);
  return found;
}

/** The texts of a program. */
function literals(source: string): string[] {
  const found: string[] = [];
  const walk = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) return;
    if (ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node)) found.push(node.text);
    ts.forEachChild(node, walk);
  };
  walk(ts.createSourceFile("x.ts", source, ts.ScriptTarget.Latest));
  return found;
}

const components = import.meta.glob<string>("../**/*.svelte", { eager: true, query: "?raw", import: "default" });
const programs = import.meta.glob<string>(["../**/*.ts", "!../**/*.test.ts", "!../**/messages*.ts", "!../**/*.d.ts"], { eager: true, query: "?raw", import: "default" });

test("words are told from names, and sentences from words", () => {
  expect(["· Senmon", "PNG", "Retry", "再試行"].map(hasWord)).toEqual([false, false, true, true]);
  expect(["The server is away.", "row small", "No report.", "読み込みます", "senmon run --follow then wait"].map(isSentence)).toEqual([true, false, true, true, false]);
  expect(texts('<p class="one two three" title="Help me">{t("x")} now</p>')).toEqual(["Help me", " now"]);
  expect(literals("const a = `It is ${b} here`; f('x');")).toEqual(["It is ", " here", "x"]);
});

test("no component has a word of its own", () => {
  expect(Object.keys(components).length).toBeGreaterThan(30);
  for (const [file, source] of Object.entries(components)) {
    expect(texts(source).filter(hasWord), file).toEqual([]);
    const scripts = [...source.matchAll(/<script[^>]*>(.*?)<\/script>/gs)].map(([, script]) => script ?? "");
    expect(scripts.flatMap(literals).filter(isSentence), file).toEqual([]);
  }
});

test("no program has a sentence of its own", () => {
  expect(Object.keys(programs).length).toBeGreaterThan(30);
  for (const [file, source] of Object.entries(programs)) expect(literals(source).filter(isSentence), file).toEqual([]);
});

// An experiment file as text: what stands in it, where a path of it stands, and single values changed in place, so that all
// else, comments too, stays as somebody wrote it. Pure. YAML is read by a package that tells where each value stands.
import { isMap, isScalar, isSeq, LineCounter, parseDocument, stringify, type Document, type Node } from "yaml";

export type Path = (string | number)[];
/** A part of the text, from one letter to before another. */
export type Span = { from: number; to: number };
export type Read = {
  /** What is sent; undefined where the text cannot be read. */
  value: unknown;
  /** Why it cannot be read, and where. */
  fault: { line: number; message: string } | null;
  document: Document;
  lines: LineCounter;
};

/** A path as the server writes it: `plan[0].tokens`. */
export const pathOf = (text: string): Path => [...text.matchAll(/([^.[\]]+)|\[(\d+)\]/g)].map((found) => (found[2] === undefined ? (found[1] ?? "") : Number(found[2])));

export function readFile(text: string): Read {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const [error] = document.errors;
  if (error) return { value: undefined, fault: { line: lines.linePos(error.pos[0]).line, message: error.message }, document, lines };
  try {
    return { value: document.toJS(), fault: null, document, lines };
  } catch (why) {
    // An alias that stands for more than anybody means.
    return { value: undefined, fault: { line: 1, message: why instanceof Error ? why.message : String(why) }, document, lines };
  }
}

const span = (node: unknown): Span | null => {
  const range = (node as Node | null | undefined)?.range;
  return range ? { from: range[0], to: range[1] } : null;
};

/** A node of a path: what it is, and the key that names it. */
type Found = { key: Span | null; node: unknown };

function step(node: unknown, part: string | number): Found | null {
  if (isMap(node)) {
    const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === String(part));
    return pair ? { key: span(pair.key), node: pair.value } : null;
  }
  if (isSeq(node) && node.items[Number(part)] !== undefined) return { key: null, node: node.items[Number(part)] };
  return null;
}

/** The deepest part of a path that stands in the file, how deep that is, and whether it is all of it. */
function reach({ document }: Read, path: Path): Found & { isWhole: boolean; depth: number } {
  let found: Found = { key: null, node: document.contents };
  for (const [depth, part] of path.entries()) {
    const next = step(found.node, part);
    if (!next) return { ...found, isWhole: false, depth };
    found = next;
  }
  return { ...found, isWhole: true, depth: path.length };
}

/** Where a word stands below a node, as a key or as a value. */
function wordBelow(node: unknown, word: string): Span | null {
  if (isScalar(node)) return String(node.value) === word ? span(node) : null;
  if (isSeq(node)) {
    for (const item of node.items) {
      const found = wordBelow(item, word);
      if (found) return found;
    }
  }
  if (isMap(node)) {
    for (const { key, value } of node.items) {
      if (isScalar(key) && String(key.value) === word) return span(key);
      const found = wordBelow(value, word);
      if (found) return found;
    }
  }
  return null;
}

/** Where a fault stands: the word that it names, if it stands below its path; else the path, as deep as it is there. `word` says whether it is the word. */
export function placeOf(read: Read, path: Path, word: string | null): { line: number | null; word: Span | null } {
  const { key, node, isWhole } = reach(read, path);
  const named = word === null ? null : isWhole && String(path.at(-1)) === word ? key : wordBelow(node, word);
  const at = named ?? key ?? (path.length > 0 && node !== read.document.contents ? span(node) : null);
  return { line: at ? read.lines.linePos(at.from).line : null, word: named };
}

/** A value of the file; undefined where there is none. */
export function valueAt(read: Read, path: Path): unknown {
  const { node, isWhole } = reach(read, path);
  if (!isWhole) return undefined;
  return isScalar(node) ? node.value : isMap(node) || isSeq(node) ? node.toJS(read.document) : node;
}

/** A text as YAML has it on one line. */
const scalar = (value: string | number | boolean): string => {
  if (typeof value !== "string") return String(value);
  // What would be read as anything but this text is quoted.
  const { value: back, fault } = readFile(`a: ${value}`);
  const isPlain = fault === null && value.trim() === value && !/[\n#]/.test(value) && (back as { a?: unknown }).a === value;
  return isPlain ? value : JSON.stringify(value);
};

type Value = string | number | boolean | object;

/** The beginning of a letter's line, and of the line after it. */
const lineFrom = (text: string, at: number) => text.lastIndexOf("\n", at - 1) + 1;
const lineAfter = (text: string, at: number) => (text.indexOf("\n", at) < 0 ? text.length : text.indexOf("\n", at) + 1);

/** The lines of one key and its value: none where other things stand on them. */
function linesOf(text: string, { key, node }: Found): Span | null {
  const from = key ? lineFrom(text, key.from) : 0;
  if (!key || text.slice(from, key.from).trim() !== "") return null;
  const end = Math.max(key.to, span(node)?.to ?? 0);
  return { from, to: lineAfter(text, text.slice(0, end).trimEnd().length) };
}

/** A key and its value as lines of a block, so many letters from the left. */
const block = (indent: string, key: string | number, value: Value) => stringify({ [key]: value }, { lineWidth: 0 }).replace(/^(?=.)/gm, indent);

/** Puts lines behind the last of a map in block style; null where it is none. */
function appended(text: string, map: unknown, key: string | number, value: Value): string | null {
  if (!isMap(map) || map.flow) return null;
  const last = map.items.at(-1);
  const first = span(map.items[0]?.key);
  if (!last || !first) return null;
  const end = text.slice(0, Math.max(span(last.key)?.to ?? 0, span(last.value)?.to ?? 0)).trimEnd().length;
  const at = lineAfter(text, end);
  return `${text.slice(0, at)}${text.slice(0, at).endsWith("\n") ? "" : "\n"}${block(" ".repeat(first.from - lineFrom(text, first.from)), key, value)}${text.slice(at)}`;
}

/** The text with one value changed; undefined takes the key out. A text that cannot be read stays as it is. */
export function withValue(text: string, path: Path, value: Value | undefined): string {
  const read = readFile(text);
  if (read.fault) return text;
  const found = reach(read, path);
  const at = found.isWhole && isScalar(found.node) ? span(found.node) : null;
  if (at && typeof value !== "object" && value !== undefined) return text.slice(0, at.from) + (at.from === at.to ? " " : "") + scalar(value) + text.slice(at.to);
  if (!found.isWhole && value === undefined) return text;
  const lines = found.isWhole ? linesOf(text, found) : null;
  const name = path.at(-1) ?? "";
  if (lines) {
    const indent = /^ */.exec(text.slice(lines.from))?.[0] ?? "";
    return text.slice(0, lines.from) + (value === undefined ? "" : block(indent, name, value)) + text.slice(lines.to);
  }
  if (!found.isWhole && value !== undefined) {
    const [key = name, ...inner] = path.slice(found.depth);
    const more = appended(text, found.node, key, inner.reduceRight<Value>((value, part) => ({ [part]: value }), value));
    if (more !== null) return more;
  }
  return rewritten(read, path, value);
}

/** What cannot be changed in place is written anew. */
function rewritten({ document }: Read, path: Path, value: Value | undefined): string {
  if (document.contents === null) document.contents = document.createNode({}) as never;
  if (value === undefined) document.deleteIn(path);
  else document.setIn(path, document.createNode(value));
  return document.toString({ lineWidth: 0 });
}

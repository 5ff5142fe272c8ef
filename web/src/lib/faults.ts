// What the server finds wrong with a file, beside the line where it stands, with the word that was meant. Pure.
import type { Fault } from "./api";
import { pathOf, placeOf, type Read, type Span } from "./file";
import { meant } from "./spelling";

/** `line` counts from 1; null where the whole file is meant. `word` is what `hint` would take the place of. */
export type Note = { line: number | null; path: string; message: string; said: Fault["said"]; tone: "bad" | "warn"; word: Span | null; hint: string | null };

/** The plan's body holds the file under this name. */
const BODY = /^experiment(?=$|[.[])\.?/;

/** Where a parser was in what was sent; it is not what somebody wrote. */
const PARSER_AT = / at line \d+ column \d+$/;
export const withoutPlace = (message: string): string => message.replace(PARSER_AT, "");

/** The word that a message complains about, and those that it would accept. */
export function wordsOf(message: string): { word: string | null; accepted: string[] } {
  const unknown = /unknown (?:field|variant) `([^`]*)`(?:, expected (.*))?/.exec(message);
  if (unknown) return { word: unknown[1] ?? null, accepted: [...(unknown[2] ?? "").matchAll(/`([^`]+)`/g)].map((found) => found[1] ?? "") };
  const found = /(?:found|token count|string) "((?:[^"\\]|\\.)*)"/.exec(message)?.[1] ?? null;
  // The names of corpora stand in brackets.
  const names = /expected the name or id of a registered corpus \((.*)\)/.exec(message)?.[1];
  return { word: found, accepted: names && names !== "none is registered" ? names.split(", ") : [] };
}

/** Faults and warnings in the order of their lines. */
export function notesOf(read: Read, faults: Fault[], tone: Note["tone"] = "bad"): Note[] {
  const notes = faults.map(({ path, message, said }): Note => {
    const { word, accepted } = wordsOf(message);
    const own = path.replace(BODY, "");
    const place = placeOf(read, own === "body" ? [] : pathOf(own), word);
    // What the server suggests itself needs no second guess.
    const hint = word === null || /did you mean/i.test(message) ? null : meant(word, accepted);
    return { line: place.line, path: own === "body" ? "" : own, message: withoutPlace(message), said: said ?? null, tone, word: place.word, hint };
  });
  return notes.sort((a, b) => (a.line ?? 0) - (b.line ?? 0));
}

/** The text with what was meant in place of what was written. */
export const corrected = (text: string, { word, hint }: Note): string => (word && hint !== null ? text.slice(0, word.from) + hint + text.slice(word.to) : text);

/** Where notes stand that want to be beside their lines: none above its own, none over another. All in pixels. */
export function stacked(wanted: number[], heights: number[], gap: number): number[] {
  let free = 0;
  return wanted.map((top, i) => {
    const at = Math.max(top, free);
    free = at + (heights[i] ?? 0) + gap;
    return at;
  });
}

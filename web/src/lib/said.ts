// What the server says to people: a kind and values, worded from the message files that every program reads. Pure.
import type { Failure, Said, SaidValue } from "./api";
import { bytes, tokens } from "./format";

type Words = { en: string; ja: string };
// The terms are the command's.
const files = import.meta.glob<Record<string, Words>>(["../../../server/protocol/messages/*.json", "!**/terms.json"], { eager: true, import: "default" });
/** Every message, by key. */
export const catalogue: Record<string, Words> = Object.assign({}, ...Object.values(files));

export type Lang = keyof Words;

/** In words; null where this page does not know the message, or lacks a value of it: the server is a newer one. */
export function inWords(said: Said, lang: Lang): string | null {
  const message = Object.hasOwn(catalogue, said.key) ? catalogue[said.key] : undefined;
  if (!message) return null;
  let text = "";
  // Every second part is the inside of a placeholder.
  for (const [i, part] of message[lang].split(/[{}]/).entries()) {
    if (i % 2 === 0) {
      // No full stop behind a value that ends with one.
      text += /[.。]$/.test(text) && part.startsWith(text.slice(-1)) ? part.slice(1) : part;
      continue;
    }
    const [name = "", form = ""] = [/^\w*/.exec(part)?.[0], part.replace(/^\w*/, "")];
    const value = said.values?.[name];
    const found = value === undefined ? null : written(value, form, lang);
    if (found === null) return null;
    text += found;
  }
  return text;
}

/** As a placeholder asks for it: `:bytes`, `:tokens`, `:sentences`, `|one|many` or nothing behind its name. */
function written(value: SaidValue, form: string, lang: Lang): string | null {
  if (form.startsWith("|")) {
    const isOne = Array.isArray(value) ? value.length === 1 : typeof value === "object" || String(value) === "1";
    return form.split("|")[isOne ? 1 : 2] ?? null;
  }
  if (typeof value === "string") return value;
  if (typeof value === "number") return form === ":bytes" ? bytes(value) : form === ":tokens" ? tokens(value) : String(value);
  if (!Array.isArray(value)) return inWords(value, lang);
  const items = value.map((item) => written(item, "", lang));
  const between = form === ":sentences" ? { en: " ", ja: "" } : { en: ", ", ja: "、" };
  return items.every((item) => item !== null) ? items.join(between[lang]) : null;
}

/** The words of something said, else the text that came with it. */
export const worded = (said: Said | null | undefined, text: string, lang: Lang): string => (said && inWords(said, lang)) ?? text;

/** What a refusal says, or each of its faults; null where the server did not answer. */
export function refusal({ sentence, said, faults }: Pick<Failure, "sentence" | "said" | "faults">, lang: Lang): string | null {
  if (sentence === null) return null;
  if (!faults?.length) return worded(said, sentence, lang);
  return faults.map((fault) => `${fault.path}: ${worded(fault.said, fault.message, lang)}`).join(lang === "ja" ? "；" : "; ");
}

/** The title of a job, such as `train expert-3`. */
export function titled(title: string, lang: Lang): string {
  const [, word = "", name = ""] = /^(\w+) (.+)$/.exec(title) ?? [];
  return inWords({ key: `title_${word}`, values: { name } }, lang) ?? title;
}

/** An answer with the sentences that came as kinds and values (`headline_said` beside `headline`) in words. */
export function retold<T>(answer: T, lang: Lang): T {
  if (Array.isArray(answer)) return answer.map((item) => retold(item, lang)) as T;
  if (typeof answer !== "object" || answer === null) return answer;
  const isSaid = (key: string) => key.endsWith("_said");
  const told: Record<string, unknown> = Object.fromEntries(Object.entries(answer).map(([key, value]) => [key, isSaid(key) ? value : retold(value, lang)]));
  for (const [key, said] of Object.entries(answer) as [string, Said | Said[] | null][]) {
    if (!isSaid(key) || !said) continue;
    const name = key.slice(0, -"_said".length);
    const text = told[name];
    if (Array.isArray(said) && Array.isArray(text) && said.length === text.length) told[name] = said.map((one, i) => worded(one, String(text[i]), lang));
    else if (!Array.isArray(said) && typeof text === "string") told[name] = worded(said, text, lang);
  }
  return told as T;
}

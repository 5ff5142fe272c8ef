// Finding in the documentation: sections that have all words of a query, those that have them in their heads first. Pure.

/** A part of a page below a heading. */
export type Section = { name: string; language: string; title: string; anchor: string; heading: string; text: string };
export type Found = Section & { before: string; hit: string; after: string };

/** Characters around what was found. */
const AROUND = 80;
/** What a word in the title, in the heading, in the text counts. */
const [TITLE, HEADING, TEXT] = [20, 10, 1];

const plain = (text: string) => text.normalize("NFKC").toLowerCase();

/** How well a section answers; 0 where a word of the query is nowhere in it. */
function scoreOf({ title, heading, text }: Section, words: string[]): number {
  let score = 0;
  const [inTitle, inHeading, inText] = [plain(title), plain(heading), plain(text)];
  for (const word of words) {
    const own = (inTitle.includes(word) ? TITLE : 0) + (inHeading.includes(word) ? HEADING : 0) + Math.min(5, inText.split(word).length - 1) * TEXT;
    if (own === 0) return 0;
    score += own;
  }
  return score;
}

/** The best sections of a language, at most so many; each with what stands around the first word. */
export function found(sections: Section[], query: string, language: string, most: number): Found[] {
  const words = plain(query).split(/\s+/).filter(Boolean);
  if (words.length === 0) return [];
  const has = new Set(sections.filter((section) => section.language === language).map(({ name }) => name));
  const own = sections.filter((section) => section.language === language || !has.has(section.name));
  const scored = own.map((section) => ({ section, score: scoreOf(section, words) })).filter(({ score }) => score > 0);
  return scored.sort((a, b) => b.score - a.score).slice(0, most).map(({ section }) => {
    const at = words.map((word) => plain(section.text).indexOf(word)).find((index) => index >= 0) ?? 0;
    const length = words.find((word) => plain(section.text).startsWith(word, at))?.length ?? 0;
    const from = Math.max(0, at - AROUND);
    return { ...section, before: (from > 0 ? "… " : "") + section.text.slice(from, at), hit: section.text.slice(at, at + length), after: section.text.slice(at + length, at + length + AROUND) };
  });
}

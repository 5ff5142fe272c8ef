// What somebody may have meant who wrote a word that is not known. Pure.

/** Letters that have to be changed, taken out, put in, or swapped with their neighbour, to make the one of the other. */
export function distance(one: string, other: string): number {
  const [a, b] = [[...one], [...other]];
  // rows[i][k]: the first i letters of the one against the first k of the other.
  const rows = Array.from({ length: a.length + 1 }, (_, i) => Array.from({ length: b.length + 1 }, (_, k) => (i === 0 ? k : k === 0 ? i : 0)));
  const at = (i: number, k: number) => rows[i]?.[k] ?? Infinity;
  for (let i = 1; i <= a.length; i += 1) {
    for (let k = 1; k <= b.length; k += 1) {
      const changed = at(i - 1, k - 1) + Number(a[i - 1] !== b[k - 1]);
      const swapped = i > 1 && k > 1 && a[i - 1] === b[k - 2] && a[i - 2] === b[k - 1] ? at(i - 2, k - 2) + 1 : Infinity;
      const row = rows[i];
      if (row) row[k] = Math.min(changed, at(i - 1, k) + 1, at(i, k - 1) + 1, swapped);
    }
  }
  return at(a.length, b.length);
}

/** Of so many letters one may be wrong. */
const LETTERS = 3;

/** The known word that is most like another; null where none is like it, or it is known. */
export function meant(word: string, known: string[]): string | null {
  const plain = (text: string) => text.toLowerCase().replaceAll("-", "_");
  const found = known.map((other) => ({ other, far: distance(plain(word), plain(other)) })).sort((a, b) => a.far - b.far)[0];
  return found && found.other !== word && found.far <= Math.max(1, Math.floor(word.length / LETTERS)) ? found.other : null;
}

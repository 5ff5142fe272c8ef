// What differs between files: settings by their path, and lines. Pure.

/** Settings that say nothing of what is trained. */
const ASIDE = new Set(["name", "description", "labels"]);

const isTree = (value: unknown): value is Record<string, unknown> | unknown[] => typeof value === "object" && value !== null && Object.keys(value).length > 0;
const said = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** A tree of settings as paths with values: `plan.0.kind` is `fan_out`. */
export function flat(tree: unknown, at = ""): Map<string, string> {
  const found = new Map<string, string>();
  for (const [key, value] of Object.entries(isTree(tree) ? tree : {})) {
    const path = at ? `${at}.${key}` : key;
    if (value === null || value === undefined) continue;
    if (isTree(value)) for (const [inner, text] of flat(value, path)) found.set(inner, text);
    else found.set(path, said(value));
  }
  return found;
}

/** A setting that is not the same in all; null where a file has none. */
export type Difference = { path: string; values: (string | null)[] };

/** Settings that differ, in the order in which the files have them. */
export function differences(trees: unknown[]): Difference[] {
  const files = trees.map((tree) => flat(tree));
  const paths = new Set(files.flatMap((file) => [...file.keys()]));
  return [...paths].flatMap((path): Difference[] => {
    if (ASIDE.has(path.split(".")[0] ?? "")) return [];
    const values = files.map((file) => file.get(path) ?? null);
    return new Set(values).size > 1 ? [{ path, values }] : [];
  });
}

export type Line = { kind: "same" | "gone" | "new"; text: string };

/** Lines of two texts beside each other: the longest common ones stay. Files have hundreds of lines, not thousands. */
export function lineDiff(before: string, after: string): Line[] {
  const [a, b] = [before.split("\n"), after.split("\n")];
  // length[i][k] is the longest common rest from line i of the one and line k of the other on.
  const length = Array.from({ length: a.length + 1 }, () => new Array<number>(b.length + 1).fill(0));
  const rest = (i: number, k: number) => length[i]?.[k] ?? 0;
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let k = b.length - 1; k >= 0; k -= 1) {
      const row = length[i];
      if (row) row[k] = a[i] === b[k] ? rest(i + 1, k + 1) + 1 : Math.max(rest(i + 1, k), rest(i, k + 1));
    }
  }
  const lines: Line[] = [];
  let [i, k] = [0, 0];
  while (i < a.length || k < b.length) {
    if (i < a.length && k < b.length && a[i] === b[k]) [lines[lines.length], i, k] = [{ kind: "same", text: a[i] ?? "" }, i + 1, k + 1];
    else if (i < a.length && (k === b.length || rest(i + 1, k) >= rest(i, k + 1))) [lines[lines.length], i] = [{ kind: "gone", text: a[i] ?? "" }, i + 1];
    else [lines[lines.length], k] = [{ kind: "new", text: b[k] ?? "" }, k + 1];
  }
  return lines;
}

/** Lines with only `around` of those that are the same beside what differs; null stands for what is left out. */
export function folded(lines: Line[], around: number): (Line | null)[] {
  const isNear = lines.map((_, i) => lines.slice(Math.max(0, i - around), i + around + 1).some((line) => line.kind !== "same"));
  return lines.flatMap((line, i): (Line | null)[] => (isNear[i] ? [line] : i === 0 || isNear[i - 1] ? [null] : []));
}

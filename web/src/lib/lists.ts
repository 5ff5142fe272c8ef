// Finding and ordering rows. Pure.

/** Whether all words of a query stand somewhere in these texts. */
export function matches(texts: (string | null | undefined)[], query: string): boolean {
  const all = texts.filter(Boolean).join(" ").toLowerCase();
  return query.toLowerCase().split(/\s+/).every((part) => all.includes(part));
}

/** What a row is ordered by, and whether the largest comes first. */
export type Order<T> = { by: (row: T) => string | number | null | undefined; isDescending?: boolean };

/** Rows in order; those without a value last, equal ones as they came. */
export function ordered<T>(rows: T[], order: Order<T> | undefined): T[] {
  if (!order) return rows;
  const { by, isDescending } = order;
  const compare = (a: string | number, b: string | number) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  return rows.toSorted((one, other) => {
    const [a, b] = [by(one), by(other)];
    if (a == null || b == null) return Number(a == null) - Number(b == null);
    return isDescending ? compare(b, a) : compare(a, b);
  });
}

/** The values that a list can be filtered by. */
export const kindsOf = <T>(rows: T[], of: (row: T) => string) => [...new Set(rows.map(of))].sort();

// Entries of the audit as people read them. Pure.
import type { Entry } from "./api";

export type Change = { key: string; before: string | undefined; after: string };

const said = (value: unknown) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
const fields = (value: unknown): Record<string, unknown> => (value !== null && typeof value === "object" ? (value as Record<string, unknown>) : {});

/** What an operation changed; of what was made, its fields that say something. */
export function changes({ before, after }: Pick<Entry, "before" | "after">): Change[] {
  const [old, now] = [fields(before), fields(after)];
  const isNew = Object.keys(old).length === 0;
  return Object.entries(now).flatMap(([key, value]): Change[] => {
    if (isNew) return value === null || value === 0 ? [] : [{ key, before: undefined, after: said(value) }];
    return said(old[key]) === said(value) ? [] : [{ key, before: said(old[key]), after: said(value) }];
  });
}

/** The page of what an entry is about, where there is one. */
export function linkOf({ operation, target }: Pick<Entry, "operation" | "target">): string | null {
  const noun = /^\w+ \/(experiments|branches)/.exec(operation)?.[1];
  return noun && /^[0-9a-f-]{36}$/.test(target) ? `${noun}/${target}` : null;
}

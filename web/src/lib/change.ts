// What may be changed of an experiment that goes on, as a form has it, and what somebody else changed meanwhile. Pure.
import type { Experiment } from "./api";
import type { components } from "./schema";

type Change = Partial<components["schemas"]["ChangeExperiment"]>;
export const fields = ["priority", "deadline", "slot_hours", "wall_hours"] as const;
export type Field = (typeof fields)[number];
/** The fields as texts; an empty one is none. */
export type Edit = Record<Field, string>;

const two = (n: number) => String(n).padStart(2, "0");
/** A moment as `datetime-local` has it, in the browser's own time. */
export function localTime(iso: string | null | undefined): string {
  if (!iso) return "";
  const at = new Date(iso);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}`;
}

export function editOf({ spec }: Pick<Experiment, "spec">): Edit {
  const text = (value: number | null | undefined) => (value == null ? "" : String(value));
  return { priority: text(spec.priority), deadline: localTime(spec.deadline), slot_hours: text(spec.budget?.slot_hours), wall_hours: text(spec.budget?.wall_hours) };
}

/** What differs between two states of the form. */
export const differing = (one: Edit, other: Edit): Field[] => fields.filter((field) => one[field].trim() !== other[field].trim());

/** What is sent: only what was changed; a budget always whole. Null where nothing was. A deadline can be moved, not taken away. */
export function changeOf(read: Edit, edit: Edit): Change | null {
  const changed = differing(read, edit);
  const hours = (field: "slot_hours" | "wall_hours") => (edit[field].trim() === "" ? null : Number(edit[field]));
  const change: Change = {
    ...(changed.includes("priority") && edit.priority.trim() !== "" ? { priority: Number(edit.priority) } : {}),
    ...(changed.includes("deadline") && edit.deadline ? { deadline: new Date(edit.deadline).toISOString() } : {}),
    ...(changed.includes("slot_hours") || changed.includes("wall_hours") ? { budget: { slot_hours: hours("slot_hours"), wall_hours: hours("wall_hours") } } : {}),
  };
  return Object.keys(change).length > 0 ? change : null;
}

/** What somebody else changed since it was read, beside what one wrote oneself; null where one did not touch it. */
export type Clash = { field: Field; read: string; theirs: string; mine: string | null };
export const clashes = (read: Edit, theirs: Edit, mine: Edit): Clash[] =>
  differing(read, theirs).map((field) => ({ field, read: read[field], theirs: theirs[field], mine: mine[field].trim() === read[field].trim() ? null : mine[field] }));

/** The form over what somebody else left: own changes stay, the rest is theirs. */
export function mergedOver(read: Edit, theirs: Edit, mine: Edit): Edit {
  const own = differing(read, mine);
  return Object.fromEntries(fields.map((field) => [field, own.includes(field) ? mine[field] : theirs[field]])) as Edit;
}

/** Weights over domains as somebody writes them, `0: 1, 3: 2`; null where they are none. */
export function weightsOf(text: string): Record<string, number> | null {
  const parts = text.split(/[,、;\n]/).map((part) => part.trim()).filter(Boolean);
  const pairs = parts.map((part) => /^(\d+)\s*(?:[:=：]\s*(\d+(?:\.\d+)?|\.\d+))?$/.exec(part));
  if (parts.length === 0 || pairs.includes(null)) return null;
  return Object.fromEntries(pairs.map((pair) => [pair?.[1] ?? "", Number(pair?.[2] ?? 1)]));
}

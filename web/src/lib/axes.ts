// Where a point lies on the x axis: tokens of the lineage or its own, steps, wall or relative time. Pure.
import type { Branch, Metrics } from "./api";

export const axes = ["lineage", "tokens", "steps", "time", "relative"] as const;
export type Axis = (typeof axes)[number];

/** Where a curve begins: tokens that its lineage had read before, and the moment of its first attempt. */
export type Origin = { tokens: number; ms: number };
export const zero: Origin = { tokens: 0, ms: 0 };

type Places = { steps: number[]; tokens: number[]; at: number[] };

/** Positions on an axis; times in seconds. */
export function placesOn(axis: Axis, { steps, tokens, at }: Places, origin: Origin): number[] {
  if (axis === "steps") return steps;
  if (axis === "tokens") return tokens;
  if (axis === "lineage") return origin.tokens === 0 ? tokens : tokens.map((count) => count + origin.tokens);
  const from = axis === "relative" ? origin.ms : 0;
  return at.map((ms) => (ms - from) / 1000);
}

/** Where a curve begins on an axis. */
export function beginOn(axis: Axis, origin: Origin): number {
  return axis === "lineage" ? origin.tokens : axis === "time" ? origin.ms / 1000 : 0;
}

/** The moment of the first attempt, as far as it is known: however a curve is thinned, it begins at the same place. */
export function beganAt(metrics: Pick<Metrics, "events" | "at_ms">): number {
  const first = metrics.at_ms[0] ?? 0;
  const begun = metrics.events.filter((event) => event.kind === "attempt_started").map((event) => Date.parse(event.at));
  return Math.min(first, ...begun);
}

/** Tokens that each branch's lineage had read when it began. `forks` has the tokens of the checkpoints that forks begin with. */
export function startsOf(branches: Branch[], forks: Record<string, number> = {}): Map<string, number> {
  const known = new Map(branches.map((branch) => [branch.id, branch]));
  const starts = new Map<string, number>();
  const start = (branch: Branch): number => {
    const found = starts.get(branch.id);
    if (found !== undefined) return found;
    // A parent that is not known, or its own ancestor, is none.
    starts.set(branch.id, 0);
    const parent = branch.parent_id ? known.get(branch.parent_id) : undefined;
    const at = parent ? start(parent) + readOf(branch, parent, forks) : 0;
    starts.set(branch.id, at);
    return at;
  };
  branches.forEach(start);
  return starts;
}

/** What a parent had read when a child began. */
function readOf(child: Branch, parent: Branch, forks: Record<string, number>): number {
  const forked = child.start_checkpoint_id ? forks[child.start_checkpoint_id] : undefined;
  if (forked !== undefined) return forked;
  // One that ended early handed on what it had.
  return parent.state === "failed" || parent.state === "cancelled" ? parent.tokens : parent.tokens_total;
}

/** Checkpoints whose tokens the starts of forks stand on. */
export const forksOf = (branches: Branch[]): string[] =>
  branches.flatMap((branch) => (branch.start_checkpoint_id ? [branch.start_checkpoint_id] : []));

/** Tokens of the longest branch: it is known before the first point, and does not change while it trains. */
export const budgetOf = (branches: Pick<Branch, "tokens_total">[]): number => branches.reduce((most, branch) => Math.max(most, branch.tokens_total), 1);

/** Where each branch begins, by what its parents had read and when it was first begun. */
export function originsOf(branches: Branch[], curves: Record<string, Pick<Metrics, "events" | "at_ms">>, forks: Record<string, number> = {}): Map<string, Origin> {
  const starts = startsOf(branches, forks);
  return new Map(branches.map((branch) => {
    const curve = curves[branch.id];
    return [branch.id, { tokens: starts.get(branch.id) ?? 0, ms: curve ? beganAt(curve) : 0 }];
  }));
}

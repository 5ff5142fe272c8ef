// What happened to a branch, as marks on the axis of its curve: a shape and words for each kind. Pure.
import type { Checkpoint, Event } from "./api";
import { zero, type Axis, type Origin } from "./axes";

/** `origin` is that of its branch. */
export type Mark = { origin: Origin; tokens: number; step: number; at: number; glyph: string; tone: "" | "warn" | "bad"; text: string };

/** Shapes by kind of event; kinds without one have no place on the axis. */
const shapes: Record<string, { glyph: string; tone: Mark["tone"] }> = {
  attempt_started: { glyph: "▷", tone: "" },
  attempt_resumed: { glyph: "↻", tone: "" },
  attempt_ended: { glyph: "□", tone: "" },
  branch_failed: { glyph: "■", tone: "bad" },
  branch_changed: { glyph: "❚", tone: "" },
  checkpoint_committed: { glyph: "·", tone: "" },
  checkpoint_damaged: { glyph: "✕", tone: "bad" },
  loss_spike: { glyph: "▲", tone: "warn" },
  step_skipped: { glyph: "⊘", tone: "warn" },
  rolled_back: { glyph: "↶", tone: "warn" },
  micro_batch_halved: { glyph: "½", tone: "warn" },
  pass_changed: { glyph: "⇄", tone: "warn" },
};

/** Kinds that are worth a mark beside the curves of other branches. */
const few = new Set(["rolled_back", "step_skipped", "attempt_resumed"]);

export function marks(events: Event[], tokensOfStep: number, only: "all" | "few" = "all", origin = zero, say: (event: Event) => string = (event) => event.text): Mark[] {
  return events.flatMap((event) => {
    const shape = shapes[event.kind];
    if (!shape || event.step == null || (only === "few" && !few.has(event.kind))) return [];
    const tone = event.level === "error" ? "bad" : event.level === "warn" ? "warn" : shape.tone;
    return [{ origin, tokens: event.step * tokensOfStep, step: event.step, at: Date.parse(event.at), glyph: shape.glyph, tone, text: say(event) }];
  });
}

/** A checkpoint on the axis of its curve: read again and whole, not read yet, or damaged. */
export function checkpointMark({ meta, created_at, problem, verified_at }: Checkpoint, origin: Origin, text: string): Mark {
  return { origin, tokens: meta.tokens, step: meta.step, at: Date.parse(created_at), glyph: problem ? "✕" : verified_at ? "✓" : "·", tone: problem ? "bad" : "", text };
}

/** Where a mark lies on an axis. */
export function markOn(axis: Axis, { origin, tokens, step, at }: Mark): number {
  if (axis === "steps") return step;
  if (axis === "time" || axis === "relative") return (at - (axis === "relative" ? origin.ms : 0)) / 1000;
  return tokens + (axis === "lineage" ? origin.tokens : 0);
}

export type Placed = { x: number; glyph: string; tone: Mark["tone"]; texts: string[] };

/** Marks closer than `apart` pixels become one, which wears the most serious shape and has all the words. */
export function gather(placed: { x: number; mark: Mark }[], apart: number): Placed[] {
  const rank = (mark: { glyph: string; tone: string }) => (mark.tone === "bad" ? 3 : mark.tone === "warn" ? 2 : mark.glyph === "·" ? 0 : 1);
  const groups: Placed[] = [];
  for (const { x, mark } of [...placed].sort((a, b) => a.x - b.x)) {
    const last = groups.at(-1);
    if (!last || x - last.x >= apart) groups.push({ x, glyph: mark.glyph, tone: mark.tone, texts: [mark.text] });
    else {
      if (rank(mark) > rank(last)) [last.glyph, last.tone] = [mark.glyph, mark.tone];
      last.texts.push(mark.text);
    }
  }
  return groups;
}

// How far an experiment is, in parts of its token budget. Pure.
import type { Summary } from "./api";

/** Stages that train, in order: what they trained is the budget. */
const TRAINS = ["seed", "branches"] as const;

export type Parts = {
  /** Where in the budget a stage begins, 0 to 1; none at its begin and none at its end. */
  marks: { stage: (typeof TRAINS)[number]; at: number }[];
  /** What is under way, and how much of it where it is not tokens. */
  now: { stage: Summary["stages"][number]["stage"]; of: string } | null;
};

export function partsOf({ stages, state, tokens_total }: Pick<Summary, "stages" | "state" | "tokens_total">): Parts {
  let before = 0;
  const marks = TRAINS.flatMap((name) => {
    const at = before / Math.max(1, tokens_total);
    before += stages.find((stage) => stage.stage === name)?.total ?? 0;
    return at > 0 && at < 1 ? [{ stage: name, at }] : [];
  });
  const running = state === "running" || state === "paused" ? stages.filter((stage) => stage.state === "running").at(-1) : undefined;
  const isTraining = running && (TRAINS as readonly string[]).includes(running.stage);
  return { marks, now: running ? { stage: running.stage, of: !isTraining && running.total > 0 ? ` ${running.done}/${running.total}` : "" } : null };
}

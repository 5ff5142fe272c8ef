// The stages of an experiment as people are told of them. Pure.
import type { Experiment, Stage } from "./api";

/** Where a stage stands; `stopped` are those that ended with their experiment. */
export type Shown = Omit<Stage, "state"> & { state: Stage["state"] | "stopped" | "paused" };

const isOver = (state: Experiment["state"]) => state === "completed" || state === "failed" || state === "cancelled";

/** Nothing runs in an experiment that is over, or paused. */
export function stagesOf({ state, stages }: Pick<Experiment, "state" | "stages">): Shown[] {
  return stages.map((stage): Shown => {
    if (stage.state === "running" && state === "paused") return { ...stage, state: "paused" };
    if (stage.state === "running" && isOver(state)) return { ...stage, state: "stopped" };
    if (stage.state === "waiting" && isOver(state)) return { ...stage, state: "skipped" };
    return stage;
  });
}

/** Branches that a completed experiment goes without. */
export const without = ({ state, branches }: Pick<Experiment, "state" | "branches">) =>
  state === "completed" ? branches.filter((branch) => branch.state === "failed" || branch.state === "cancelled") : [];

/** What a cancellation would stop. */
export const underWay = (branches: Experiment["branches"]) =>
  branches.filter((branch) => ["waiting", "queued", "running", "paused"].includes(branch.state));

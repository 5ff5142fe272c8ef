// The stages of an experiment as people are told of them. Pure.
import type { Experiment, Job, Stage } from "./api";

/** Where a stage stands; `stopped` are those that ended with their experiment. */
export type Shown = Omit<Stage, "state"> & { state: Stage["state"] | "stopped" | "paused" | "queued" };

/** The jobs that a stage is made of. */
const kinds: Partial<Record<Stage["stage"], Job["kind"][]>> = {
  shard: ["shard"], seed: ["train"], branches: ["train"], merge: ["merge"], evaluate: ["decontaminate", "evaluate", "ensemble"],
};

/** Whether all that is left of a stage waits for slots. */
function isQueued(stage: Stage, jobs: Pick<Job, "kind" | "state">[]): boolean {
  const own = jobs.filter((job) => kinds[stage.stage]?.includes(job.kind));
  return own.some((job) => job.state === "queued") && !own.some((job) => job.state === "running");
}

const isOver = (state: Experiment["state"]) => state === "completed" || state === "failed" || state === "cancelled";

/** Nothing runs in an experiment that is over, or paused, or whose jobs wait. `jobs` are those of the experiment. */
export function stagesOf({ state, stages }: Pick<Experiment, "state" | "stages">, jobs: Pick<Job, "kind" | "state">[] = []): Shown[] {
  return stages.map((stage): Shown => {
    if (stage.state === "running" && state === "paused") return { ...stage, state: "paused" };
    if (stage.state === "running" && isOver(state)) return { ...stage, state: "stopped" };
    if (stage.state === "waiting" && isOver(state)) return { ...stage, state: "skipped" };
    if (stage.state === "running" && isQueued(stage, jobs)) return { ...stage, state: "queued" };
    return stage;
  });
}

/** Branches that a completed experiment goes without. */
export const without = ({ state, branches }: Pick<Experiment, "state" | "branches">) =>
  state === "completed" ? branches.filter((branch) => branch.state === "failed" || branch.state === "cancelled") : [];

/** What a cancellation would stop. */
export const underWay = (branches: Experiment["branches"]) =>
  branches.filter((branch) => ["waiting", "queued", "running", "paused"].includes(branch.state));

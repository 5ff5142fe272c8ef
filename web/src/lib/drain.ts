// What a drain will do. Pure.
import type { Worker } from "./api";

export type Drain = {
  /** Trainings, which save and go on elsewhere. */
  saves: string[];
  /** What begins anew elsewhere. */
  anew: string[];
  /** Slots of other workers that are free now. */
  free: number;
};

/** A slot that runs several jobs' parts tells each once. */
export function drainOf(worker: Pick<Worker, "id" | "slots">, all: Worker[]): Drain {
  const jobs = new Map(worker.slots.flatMap((slot) => (slot.title && slot.job_id ? [[slot.job_id, slot] as const] : [])));
  const running = [...jobs.values()];
  const titles = (is: boolean) => running.filter((slot) => Boolean(slot.branch_id && /^train\b/.test(slot.title ?? "")) === is).map((slot) => slot.title ?? "");
  const others = all.filter((other) => other.id !== worker.id && other.state === "alive" && other.mode === "enabled" && !other.set_aside);
  return { saves: titles(true), anew: titles(false), free: others.flatMap((other) => other.slots).filter((slot) => !slot.job_id).length };
}

// What the page of comparisons shows: the experiments that its address names, whole or by some of their branches.
import { ApiError, allOf, get, type Branch, type Domain, type Experiment, type Report } from "./api";
import { param, setParams } from "./address.svelte";

/** An experiment, which of its branches are compared (all where none is named), and what it came to. */
export type Subject = { experiment: Experiment; branches: string[]; report: Report | null; domains: Domain[]; file: string };

/** More would not be told apart. */
export const SUBJECTS_MAX = 8;

const ids = (name: string) => [...new Set(param(name).split(",").filter(Boolean))].slice(0, SUBJECTS_MAX);
export const wanted = () => ({ experiments: ids("experiments"), branches: ids("branches") });

export const choose = {
  experiment: (id: string) => setParams({ experiments: [...ids("experiments"), id].join(",") }, { step: true }),
  branch: (id: string) => setParams({ branches: [...ids("branches"), id].join(",") }, { step: true }),
  /** Takes an experiment out, and its branches with it. */
  drop: (id: string, branches: string[]) => setParams({ experiments: ids("experiments").filter((other) => other !== id).join(","), branches: ids("branches").filter((other) => !branches.includes(other)).join(",") }, { step: true }),
  dropBranch: (id: string) => setParams({ branches: ids("branches").filter((other) => other !== id).join(",") }, { step: true }),
};

/** What is not there yet is none; everything else is a failure. */
const orNone = <T,>(reading: Promise<T>): Promise<T | null> =>
  reading.catch((error: unknown) => {
    if (error instanceof ApiError && (error.problem.status === 404 || error.problem.status === 409)) return null;
    throw error;
  });

/** Reads all of it. Branches bring their experiments along. */
export async function readSubjects({ experiments, branches }: ReturnType<typeof wanted>, signal: AbortSignal): Promise<Subject[]> {
  const found = await Promise.all(branches.map((id) => get<Branch>(`/branches/${id}`, signal)));
  const all = [...new Set([...experiments, ...found.map((branch) => branch.experiment_id)])].slice(0, SUBJECTS_MAX);
  return Promise.all(all.map(async (id): Promise<Subject> => {
    const [experiment, domains, file] = await Promise.all([
      get<Experiment>(`/experiments/${id}`, signal),
      orNone(allOf<Domain>(`/experiments/${id}/domains`, signal)),
      get<string>(`/experiments/${id}/spec`, signal),
    ]);
    const report = experiment.state === "completed" ? await orNone(get<Report>(`/experiments/${id}/report`, signal)) : null;
    // An experiment that is named itself is compared whole.
    const own = experiments.includes(id) ? [] : found.filter((branch) => branch.experiment_id === id).map((branch) => branch.id);
    return { experiment, branches: own, report, domains: domains ?? [], file };
  }));
}

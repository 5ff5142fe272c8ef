// What a plan comes to, for people. Pure.
import type { Plan } from "./api";

type Planned = Plan["branches"][number];

/** Branches of one role together, in the order of the plan. */
export function byRole(branches: Planned[]): { role: Planned["role"]; count: number; tokens: number; steps: number }[] {
  const sum = (of: Planned[], key: "tokens" | "steps") => of.reduce((all, branch) => all + branch[key], 0);
  return [...new Set(branches.map((branch) => branch.role))].map((role) => {
    const own = branches.filter((branch) => branch.role === role);
    return { role, count: own.length, tokens: sum(own, "tokens"), steps: sum(own, "steps") };
  });
}

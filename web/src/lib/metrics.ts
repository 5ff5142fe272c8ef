// Curves as they came and as they are drawn: later points at the end, finer points in the middle. Pure.
import type { Branch, Metrics, NewPoints } from "./api";
import type { Origin } from "./axes";
import { look, type Look } from "./curves";
import { isSparse } from "./series";

/** The metric that is drawn first. */
export const LOSS = "train/loss";

/** What a chart draws of one branch. `low` and `high` hold a value only where a point stands for more than one step. */
export type Line = {
  id: string;
  name: string;
  role: string;
  domain: number | null;
  look: Look;
  /** What is drawn together where curves are grouped; none stands alone. */
  group: string | null;
  origin: Origin;
  steps: number[];
  tokens: number[];
  at: number[];
  values: (number | null)[];
  low: (number | null)[];
  high: (number | null)[];
};

type Curve = Metrics["series"][string];

/** Whether more than one value lies behind a point. */
const isBucket = (curve: Curve, i: number) => (curve.max?.[i] ?? 0) > (curve.min?.[i] ?? 0);

/** Whether some point of these steps stands for more than one, so that there is something finer to ask for. */
export function isCoarse(metrics: Metrics, from: number, to: number): boolean {
  const curves = Object.values(metrics.series);
  return metrics.steps.some((step, i) => step >= from && step <= to && curves.some((curve) => isBucket(curve, i)));
}

/** Appends what the stream told; what is there already stays. */
export function grow(metrics: Metrics, points: NewPoints): Metrics {
  const last = metrics.steps.at(-1) ?? 0;
  const first = points.steps.findIndex((step) => step > last);
  if (first < 0) return metrics;
  const more = (name: string) => points.steps.slice(first).map((_, i) => points.series[name]?.[first + i] ?? null);
  const series = Object.entries(metrics.series).map(([name, { mean, min, max }]): [string, Curve] => {
    const values = more(name);
    return [name, { mean: [...mean, ...values], min: min && [...min, ...values], max: max && [...max, ...values] }];
  });
  return {
    ...metrics,
    steps: [...metrics.steps, ...points.steps.slice(first)],
    tokens: [...metrics.tokens, ...points.tokens.slice(first)],
    at_ms: [...metrics.at_ms, ...points.at_ms.slice(first)],
    series: Object.fromEntries(series),
  };
}

/** A curve with the steps `from` to `until` taken from a finer reading of it; so with its superseded tails. */
export function splice(whole: Metrics, finer: Metrics, from: number, until: number): Metrics {
  const joiner = (steps: number[]) => {
    const [head, rest] = [steps.filter((step) => step < from).length, steps.filter((step) => step <= until).length];
    return <T>(coarse: T[], fine: T[]) => [...coarse.slice(0, head), ...fine, ...coarse.slice(rest)];
  };
  const join = joiner(whole.steps);
  const series = Object.entries(whole.series).map(([name, coarse]): [string, Curve] => {
    const fine = finer.series[name] ?? { mean: finer.steps.map(() => null) };
    const bands = coarse.min && coarse.max ? coarse : fine.min && fine.max ? fine : null;
    // A point that stands for one step is its own minimum and maximum.
    const edge = (of: "min" | "max") => bands && join(coarse[of] ?? coarse.mean, fine[of] ?? fine.mean);
    return [name, { mean: join(coarse.mean, fine.mean), min: edge("min"), max: edge("max") }];
  });
  const superseded = whole.superseded.map((tail) => {
    const fine = finer.superseded.find((other) => other.fence === tail.fence);
    const joinTail = joiner(tail.steps);
    return fine ? { ...tail, steps: joinTail(tail.steps, fine.steps), loss: joinTail(tail.loss, fine.loss) } : tail;
  });
  return {
    ...whole,
    steps: join(whole.steps, finer.steps),
    tokens: join(whole.tokens, finer.tokens),
    at_ms: join(whole.at_ms, finer.at_ms),
    series: Object.fromEntries(series),
    superseded,
  };
}

/** The branch of a line, and how it is told from the others. */
export type Told = { branch: Branch; origin: Origin; name?: string; look?: Look; group?: string | null };

/** The line of one metric of a branch. */
export function lineOf({ branch, origin, ...told }: Told, metrics: Metrics, key: string): Line[] {
  const curve = metrics.series[key];
  if (!curve) return [];
  const edge = (values: Curve["min"]) => (values ?? []).map((value, i) => (isBucket(curve, i) ? value : null));
  const [low, high] = [edge(curve.min), edge(curve.max)];
  const banded = low.some((value) => value !== null);
  const measured = (_: unknown, i: number) => !isSparse(key) || curve.mean[i] !== null;
  const kept = <T>(values: T[]) => values.filter(measured);
  return [
    {
      id: branch.id,
      name: told.name ?? branch.name,
      role: branch.role,
      domain: branch.domain ?? null,
      look: told.look ?? look(branch.role, branch.domain),
      group: told.group === undefined ? branch.role : told.group,
      origin,
      steps: kept(metrics.steps),
      tokens: kept(metrics.tokens),
      at: kept(metrics.at_ms),
      values: kept(curve.mean),
      low: banded ? kept(low) : [],
      high: banded ? kept(high) : [],
    },
  ];
}

/** Superseded tails of a branch as lines; they have steps, but no times. `word` says what they are. */
export function tailsOf({ branch, origin }: Told, metrics: Metrics, word: string): Line[] {
  const stepTokens = branch.tokens_total / Math.max(1, branch.steps);
  return metrics.superseded.map((tail) => ({
    id: `tail-${tail.fence}`,
    name: `#${tail.fence} ${word}`,
    role: branch.role,
    domain: branch.domain ?? null,
    look: { ...look(branch.role, branch.domain), dash: [3, 3] },
    group: null,
    origin,
    steps: tail.steps,
    tokens: tail.steps.map((step) => step * stepTokens),
    at: [],
    values: tail.loss,
    low: [],
    high: [],
  }));
}

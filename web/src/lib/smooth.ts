// Smoothing by an exponential mean over tokens, so that it means the same however many points a curve has. Pure.

/**
 * The exponentially weighted mean of what was trained on up to each point: text that lies `span` tokens back weighs 1/e of
 * the newest. A point speaks for all tokens since the point before it, so a thinned curve is smoothed as the whole one
 * would be. Debiased, so the start is not pulled to 0; what is lost or not finite stays a hole. A span of 0 is off.
 */
export function smooth(values: (number | null)[], tokens: number[], span: number): (number | null)[] {
  if (span <= 0) return values;
  let [mean, weight, before] = [0, 0, 0];
  return values.map((value, i) => {
    const now = tokens[i] ?? before;
    const keeps = Math.exp(-Math.max(0, now - before) / span);
    before = now;
    mean *= keeps;
    weight *= keeps;
    if (value === null || !Number.isFinite(value)) return null;
    mean += value * (1 - keeps);
    weight += 1 - keeps;
    return weight > 0 ? mean / weight : value;
  });
}

/** Parts of a budget that the slider offers, after off. */
const PARTS = [1 / 2000, 1 / 1000, 1 / 500, 1 / 200, 1 / 100, 1 / 50, 1 / 20, 1 / 10, 1 / 5] as const;
/** What is usual: a hundredth, so that a hundred independent values lie side by side. */
const USUAL = 4;

/** Two digits, as people would choose it. */
const rounded = (count: number) => Math.max(1, Number(count.toPrecision(2)));

/** Spans that the slider offers for a budget of so many tokens: off, then from fine to coarse. */
export const spansOf = (budget: number): number[] => [0, ...PARTS.map((part) => rounded(budget * part))];

/** What is usual for a budget: it depends on nothing that changes while a branch trains. */
export const usualSpan = (budget: number): number => rounded(budget * (PARTS[USUAL] ?? 0.01));

/** The place of the slider that is nearest to a span. */
export function placeOf(spans: number[], span: number): number {
  if (span <= 0) return 0;
  const far = (of: number) => (of <= 0 ? Infinity : Math.abs(Math.log(of / span)));
  return spans.reduce((best, of, i) => (far(of) < far(spans[best] ?? 0) ? i : best), Math.min(1, spans.length - 1));
}

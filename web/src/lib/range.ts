// What of the y axis is shown: all values of a view, or those without outliers. Pure.

/** Values that a percentile is looked for in; more would not move it by a pixel. */
const SAMPLE = 4000;
/** Room above and below, as a part of the range. */
const ROOM = 0.06;
/** Without outliers: from the 1st to the 99th percentile. */
const CUT = 0.01;

/** The value below which a share of the values lie, between neighbours in proportion; `sorted` from the smallest. */
export function percentile(sorted: number[], share: number): number {
  const at = (sorted.length - 1) * Math.min(1, Math.max(0, share));
  const [below, above] = [sorted[Math.floor(at)] ?? NaN, sorted[Math.ceil(at)] ?? NaN];
  return below + (above - below) * (at - Math.floor(at));
}

/** What lies in view: raw and smoothed values, and the ends of bands. */
export type InView = { values: (number | null)[]; bold: (number | null)[]; edges: (number | null)[] };

const usable = (values: (number | null)[], isLog: boolean) => values.filter((value): value is number => value !== null && Number.isFinite(value) && (!isLog || value > 0));

/** The range to show; null where there is no value. */
export function rangeOf(views: InView[], { hasOutliers, isLog }: { hasOutliers: boolean; isLog: boolean }): [number, number] | null {
  let [low, high] = [Infinity, -Infinity];
  const widen = (value: number) => ([low, high] = [Math.min(low, value), Math.max(high, value)]);
  if (hasOutliers) {
    for (const view of views) for (const value of usable([...view.values, ...view.edges], isLog)) widen(value);
  } else {
    const all = views.flatMap((view) => view.values);
    const every = Math.max(1, Math.floor(all.length / SAMPLE));
    const sorted = usable(every === 1 ? all : all.filter((_, i) => i % every === 0), isLog).sort((a, b) => a - b);
    if (sorted.length > 0) [percentile(sorted, CUT), percentile(sorted, 1 - CUT)].forEach(widen);
    // The end of each curve is what is looked for: it is in view however rare its values are.
    for (const view of views) {
      const last = usable(view.bold, isLog).at(-1);
      if (last !== undefined) widen(last);
    }
  }
  if (low > high) return null;
  return isLog ? roomLog(low, high) : room(low, high);
}

function room(low: number, high: number): [number, number] {
  const by = high > low ? (high - low) * ROOM : Math.abs(high) * ROOM || 1;
  // What is never negative has no axis below 0.
  return [low >= 0 ? Math.max(0, low - by) : low - by, high + by];
}

function roomLog(low: number, high: number): [number, number] {
  const by = high > low ? (high / low) ** ROOM : 1 + ROOM;
  return [low / by, high * by];
}

/** Numbers that read well, of one decade. */
const steps = [[1], [1, 3], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9]];

/** Places along a logarithmic axis, about `most`, that read well in a unit: powers of ten, parts of them, or even steps where the range is less. */
export const logTicks = (low: number, high: number, most: number, unit = 1): number[] => ticksBetween(low / unit, high / unit, most).map((value) => value * unit);

function ticksBetween(low: number, high: number, most: number): number[] {
  if (!(low > 0) || !(high > low)) return [];
  const first = Math.floor(Math.log10(low));
  const decades = Array.from({ length: Math.ceil(Math.log10(high)) - first + 1 }, (_, i) => first + i);
  const inside = (value: number) => value >= low && value <= high;
  const each = (parts: number[]) => decades.flatMap((power) => parts.map((part) => Number(`${part}e${power}`))).filter(inside);
  const found = steps.map(each).filter((ticks) => ticks.length <= most).at(-1);
  if (found && found.length >= 3) return found;
  if (high / low > 10) {
    const powers = each([1]);
    const every = Math.ceil(powers.length / most);
    return powers.filter((_, i) => i % every === 0);
  }
  return evenTicks(low, high, most);
}

/** Places along an even axis, at most about `most`, that read well. */
export function evenTicks(low: number, high: number, most: number): number[] {
  const rough = (high - low) / most;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((part) => part * unit).find((size) => size >= rough) ?? rough;
  const start = Math.ceil(low / step);
  return Array.from({ length: Math.max(0, Math.floor(high / step) - start + 1) }, (_, i) => Number(((start + i) * step).toPrecision(12)));
}

// What is drawn: smoothing, and a branch's colour. Pure.

/** Exponential smoothing, weight 0 (none) to 0.99; holes stay holes. Debiased, so the start is not pulled to 0. */
export function smooth(values: (number | null)[], weight: number): (number | null)[] {
  let [mean, debias] = [0, 0];
  return values.map((value) => {
    if (value === null || !Number.isFinite(value)) return null;
    mean = mean * weight + value * (1 - weight);
    debias = debias * weight + (1 - weight);
    return mean / debias;
  });
}

/** Colours that survive colour-blindness (Okabe and Ito, extended), by domain. */
const palette = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6bb1", "#a6761d", "#1b9e77", "#7f7f00"];

/** Experts by domain; controls in greys with dashes, so that an expert is seen against them at once. */
export function look(role: string, domain: number | null | undefined): { stroke: string; dash: number[] } {
  if (role === "expert") return { stroke: palette[(domain ?? 0) % palette.length] ?? "#0072b2", dash: [] };
  if (role === "chain") return { stroke: palette[(domain ?? 0) % palette.length] ?? "#0072b2", dash: [2, 3] };
  if (role === "tree") return { stroke: "#6a51a3", dash: [] };
  const greys: Record<string, string> = { seed: "#808080", dense: "#606060", random: "#b0b0b0" };
  return { stroke: greys[role] ?? "#909090", dash: role === "seed" ? [8, 4] : [4, 4] };
}

/** A column of the chart: null is a gap, undefined no point of this curve. */
export type Column = (number | null | undefined)[];

/** One x axis for several curves: sorted, without repetition, undefined where a curve has no point. */
export function align(curves: { x: number[]; y: (number | null)[] }[]): [number[], ...Column[]] {
  const xs = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
  const place = new Map(xs.map((x, i) => [x, i]));
  const columns = curves.map((curve) => {
    const column: Column = new Array(xs.length).fill(undefined);
    curve.x.forEach((x, i) => {
      const at = place.get(x);
      if (at !== undefined) column[at] = curve.y[i] ?? null;
    });
    return column;
  });
  return [xs, ...columns];
}

/** Background of a cell of the matrix: better than dense towards green, worse towards red. */
export function heat(delta: number): string {
  const strength = Math.min(1, Math.abs(delta) / 0.5);
  const colour = delta < 0 ? "10,122,75" : "179,38,30";
  return `rgba(${colour},${(strength * 0.45).toFixed(3)})`;
}

// How a branch looks: the colour of its domain, dashes of its role; and how good a cell of the matrix is. Pure.

/** Colours that survive colour-blindness (Okabe and Ito, extended), by domain; each at least 3:1 on the light ground and on the dark one. */
export const palette = ["#0072b2", "#c27c00", "#009e73", "#cc79a7", "#2b8fcb", "#d55e00", "#8c6bb1", "#b8336a", "#1b9e77", "#7f7f00"] as const;
/** Dashes that tell the second and the third round of the palette from the first. */
const rounds = [[], [12, 3], [12, 3, 3, 3]] as const;

export type Look = { stroke: string; dash: number[] };

/** A colour of the palette, round and round. */
export const colour = (index: number): string => palette[index % palette.length] ?? "#0072b2";

/** Experts by domain; controls in greys with dashes, so that an expert is seen against them at once. */
export function look(role: string, domain: number | null | undefined): Look {
  if (role === "expert") return { stroke: colour(domain ?? 0), dash: [...(rounds[Math.floor((domain ?? 0) / palette.length) % rounds.length] ?? [])] };
  if (role === "chain") return { stroke: colour(domain ?? 0), dash: [2, 3] };
  if (role === "tree") return { stroke: "#8b70c4", dash: [] };
  const greys: Record<string, string> = { seed: "#808080", dense: "#707070", random: "#8f8f8f" };
  return { stroke: greys[role] ?? "#858585", dash: role === "seed" ? [8, 4] : role === "dense" ? [6, 3] : [4, 4] };
}

/** Background of a cell of the matrix: better than dense towards green, worse towards red. */
export function heat(delta: number): string {
  const strength = Math.min(1, Math.abs(delta) / 0.5);
  const colour = delta < 0 ? "10,122,75" : "179,38,30";
  return `rgba(${colour},${(strength * 0.45).toFixed(3)})`;
}

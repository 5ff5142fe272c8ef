// How a chart is looked at, as it stands in the address: axis, scale, smoothing, hidden curves, zoom.
import { param, setParams } from "./address.svelte";
import type { Axis, View } from "./zoom";

const WEIGHT = 0.8;

const axis = (): Axis => {
  const found = param("x");
  return found === "steps" || found === "time" ? found : "tokens";
};

/** The part of the axis that is shown, as `from~to`; null for all of it. */
function zoom(): View | null {
  const [from, to] = param("zoom").split("~").map(Number);
  return from !== undefined && to !== undefined && to > from ? { axis: axis(), from, to } : null;
}

function weight(): number {
  const found = Number(param("smooth", String(WEIGHT)));
  return found >= 0 && found <= 0.99 ? found : WEIGHT;
}

const hidden = () => param("hide").split(",").filter(Boolean);

export const chart = {
  get axis() { return axis(); },
  get isLogarithmic() { return param("y") === "log"; },
  get weight() { return weight(); },
  /** Names of branches. */
  get hidden() { return hidden(); },
  get hasTails() { return param("tails") === "1"; },
  get view() { return zoom(); },
  /** Another axis shows all of it. */
  setAxis: (next: Axis) => setParams({ x: next === "tokens" ? null : next, zoom: null }),
  setLogarithmic: (is: boolean) => setParams({ y: is ? "log" : null }),
  setWeight: (next: number) => setParams({ smooth: next === WEIGHT ? null : String(next) }),
  setHidden: (names: string[]) => setParams({ hide: names.join(",") }),
  setTails: (are: boolean) => setParams({ tails: are ? "1" : null }),
  /** The way back leads to what was shown before. */
  setView: (next: { from: number; to: number } | null) => setParams({ zoom: next && `${Number(next.from.toPrecision(12))}~${Number(next.to.toPrecision(12))}` }, { step: true }),
};

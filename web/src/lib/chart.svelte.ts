// How charts are looked at, as it stands in the address: axis, scale, range, smoothing, groups, hidden curves, zoom, pins.
// All charts of a page are looked at alike, and share the moment under the cursor.
import { param, place, setParams } from "./address.svelte";
import { axes, type Axis } from "./axes";
import { isSame, type View } from "./zoom";

/** Roles whose curves can be drawn as one band. */
export const roles = ["random", "expert", "chain"] as const;
/** Parts of the address that say how charts are looked at; they go along from tab to tab. */
const NAMES = ["x", "y", "range", "smooth", "band", "group", "hide", "tails", "zoom", "pin"];
/** What stands for an empty list, where the usual one is not. */
const NONE = "-";
/** What is drawn together where nobody chose: random parts tell nothing one by one. */
export const GROUPED: readonly string[] = ["random"];

/** A worker's curves know nothing but time. */
const axis = (): Axis => (place.path.startsWith("workers/") ? "time" : axes.find((name) => name === param("x")) ?? "lineage");

/** The part of the axis that is shown, as `from~to`; null for all of it. */
function zoom(): View | null {
  const [from, to] = param("zoom").split("~").map(Number);
  return from !== undefined && to !== undefined && to > from ? { axis: axis(), from, to } : null;
}

// Names may have commas of their own.
const packed = (values: readonly string[]) => values.map((value) => value.replace(/[%,]/g, encodeURIComponent)).join();
const unpacked = (text: string) => text.split(",").filter(Boolean).map((value) => value.replace(/%2C|%25/g, decodeURIComponent));
const list = (name: string): string[] | null => (param(name) === "" ? null : param(name) === NONE ? [] : unpacked(param(name)));
const written = (values: readonly string[], usual: readonly string[]) => (packed(values) === packed(usual) ? null : packed(values) || NONE);

// While a view moves under the fingers it is not in the address yet; all charts move together.
let moving = $state.raw<View | null>(null);

export const chart = {
  get axis() { return axis(); },
  get isLogarithmic() { return param("y") === "log"; },
  get hasOutliers() { return param("range") === "all"; },
  /** Tokens, 0 for off; null for what is usual. */
  get span() { const found = Number(param("smooth") || NaN); return found >= 0 ? found : null; },
  get hasBand() { return param("band") !== "0"; },
  /** Roles that are drawn together; null where nobody chose. */
  get groups() { return list("group"); },
  /** Names of curves; null where nobody chose. */
  get hidden() { return list("hide"); },
  get hasTails() { return param("tails") === "1"; },
  get pins() { return list("pin") ?? []; },
  /** What is shown now. */
  get view() { return moving ?? zoom(); },
  /** What is shown when nothing moves. */
  get rest() { return zoom(); },
  get isMoving() { return moving !== null; },
  /** Another axis shows all of it. */
  setAxis: (next: Axis) => setParams({ x: next === "lineage" ? null : next, zoom: null }),
  setLogarithmic: (is: boolean) => setParams({ y: is ? "log" : null }),
  setOutliers: (are: boolean) => setParams({ range: are ? "all" : null }),
  setSpan: (next: number | null) => setParams({ smooth: next === null ? null : String(next) }),
  setBand: (is: boolean) => setParams({ band: is ? null : "0" }),
  setGroups: (next: string[], usual: readonly string[] = GROUPED) => setParams({ group: written(next, usual) }),
  setHidden: (names: string[], usual: string[] = []) => setParams({ hide: written(names, usual) }),
  setTails: (are: boolean) => setParams({ tails: are ? "1" : null }),
  setPins: (names: string[]) => setParams({ pin: packed(names) }),
  move: (next: View | null) => { moving = next; },
  /** The way back leads to what was shown before. */
  setView(next: { from: number; to: number } | null) {
    moving = null;
    const shown = next && `${Number(next.from.toPrecision(12))}~${Number(next.to.toPrecision(12))}`;
    if (shown !== (param("zoom") || null) && !(next && isSame({ axis: axis(), ...next }, zoom()))) setParams({ zoom: shown }, { step: true });
  },
};

/** What of the address another tab of the same thing takes along. */
export function keptSearch(): string {
  const kept = new URLSearchParams(NAMES.flatMap((name) => (param(name) ? [[name, param(name)]] : [])));
  return kept.size > 0 ? `?${kept}` : "";
}

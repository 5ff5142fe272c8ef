// What a chart shows of its lines: smoothed, grouped, without the hidden ones; as the address says.
import { GROUPED, chart, roles } from "./chart.svelte";
import { look, type Look } from "./curves";
import type { Line } from "./metrics";
import { t } from "./session.svelte";
import { usualSpan } from "./smooth";
import { around, type View } from "./zoom";
import { groupable, tracesOf, usualHidden, type Trace } from "./traces";

export type Given = {
  lines: Line[];
  tails?: Line[];
  /** Tokens of the longest curve, once it is over: what the usual smoothing is a part of. */
  budget: number;
  /** Whether it is drawn as it is, whatever smoothing is chosen. */
  isExact?: boolean;
  /** Roles that are drawn together where nobody chose. */
  usualGroups?: readonly string[];
  /** What curves of a group look like together; a role's own look if absent. */
  lookOf?: ((group: string, members: Line[]) => Look) | undefined;
  nameOf?: ((group: string) => string) | undefined;
};

/** Superseded tails are drawn raw; they have steps, but no times. */
const hasTails = () => chart.hasTails && chart.axis !== "time" && chart.axis !== "relative";

/** Names of groups, for people. */
const groupName = (role: string) => (role === "random" ? t("group_random") : role === "chain" ? t("group_chain") : role === "expert" ? t("group_expert") : role);
/** Of a group that belongs to no domain. */
const groupLook = (role: string): Look => (role === "expert" ? { stroke: "#0072b2", dash: [] } : role === "chain" ? { stroke: "#d55e00", dash: [2, 3] } : look(role, null));

export class Shown {
  constructor(private readonly given: () => Given) {}
  /** Tokens that are smoothed over. */
  span = $derived.by(() => this.given().isExact ? 0 : chart.span ?? usualSpan(this.given().budget));
  /** Roles that can be drawn together, and those that are. */
  groups = $derived.by(() => groupable(this.given().lines, roles));
  grouped = $derived.by(() => (chart.groups ?? this.given().usualGroups ?? GROUPED).filter((role) => this.groups.includes(role)));
  usual = $derived.by(() => usualHidden(this.given().lines));
  hidden = $derived.by(() => new Set(chart.hidden ?? this.usual));
  #around: View | null = null;
  // What a group is made for: while a view moves the surroundings too, so that a pan makes nothing anew.
  #made = $derived.by(() => {
    if (this.grouped.length === 0) return null;
    const { view } = chart;
    if (!view || !chart.isMoving) return (this.#around = null, view);
    const found = around(view, this.#around);
    return found === this.#around ? found : (this.#around = { ...found, widths: 3 } as View & { widths: number });
  });
  all = $derived.by((): Trace[] => {
    const { lines, tails = [], lookOf, nameOf } = this.given();
    // A view that moves changes only what is grouped.
    const view = this.#made;
    const grouping = { roles: this.grouped, nameOf: nameOf ?? groupName, lookOf: lookOf ?? groupLook };
    const traces = tracesOf(lines, chart.axis, this.span, view, grouping);
    return hasTails() ? [...traces, ...tracesOf(tails, chart.axis, 0, null, grouping)] : traces;
  });
  visible = $derived.by(() => this.all.filter((trace) => !this.hidden.has(trace.key) && trace.x.length > 0));

  toggle(key: string, isAlone: boolean) {
    const others = this.all.map((trace) => trace.key).filter((other) => other !== key);
    const next = isAlone ? others : this.hidden.has(key) ? [...this.hidden].filter((other) => other !== key) : [...this.hidden, key];
    chart.setHidden(next, this.usual);
  }
  showAll() {
    chart.setHidden([], this.usual);
  }
}

// The tables of a report, in words: what the page shows, and what is handed on. Pure.
import type { Report } from "./api";
import { heat } from "./curves";
import { bytes, duration, figure, percent, tokens, whole } from "./format";
import type { Key } from "./messages";
import { deltaOn, folded, labelOf, surfaceCurves, type Chain } from "./report";
import type { Cell, Table } from "./written";

/** A sentence of the message file. */
export type Say = (key: Key, values?: Record<string, string | number>) => string;
type Contestant = Report["contestants"][number];

const NONE = "–";
export const signed = (value: number, digits: number) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
const shareOf = (part: number, digits = 1) => `${(100 * part).toFixed(digits)} %`;
const orNone = <T>(value: T | null | undefined, write: (value: T) => string) => (value == null ? NONE : write(value));
/** A model by its name, linked to its page. */
const branchCell = (name: string, id: string, note = ""): Cell => ({ text: name, href: `branches/${id}`, note });

function spreadOf({ vs_dense_percent_mean: mean, vs_dense_percent_min: low, vs_dense_percent_max: high, repeats }: NonNullable<Contestant["spread"]>): string {
  return mean == null || low == null || high == null ? `× ${repeats}` : `${percent(mean)} (${percent(low)} … ${percent(high)}) × ${repeats}`;
}

/** A difference to dense, and the interval that says whether there is one. */
function against(found: Contestant["vs_dense"], plain: number | null | undefined, say: Say): Cell[] {
  const value = found?.percent ?? plain;
  const isShown = found != null && (found.nats_low > 0 || found.nats_high < 0);
  const interval = found ? `${percent(found.percent_low)} … ${percent(found.percent_high)}` : NONE;
  return [
    { text: orNone(value, percent), ...(isShown && (value ?? 0) < 0 ? { tone: "ok" as const } : {}) },
    { text: interval, note: found && !isShown ? say("noneShown") : "" },
  ];
}

export function contestantsTable(report: Report, say: Say): Table {
  const hasSpread = report.contestants.some((row) => row.spread);
  return {
    columns: [
      { text: say("name"), isWide: true }, { text: say("perplexity"), isNumber: true, title: say("byShareHelp") }, { text: say("against"), isNumber: true }, { text: say("interval"), isOneLine: true },
      { text: say("alike"), isNumber: true }, { text: say("against"), isNumber: true }, { text: say("interval"), isOneLine: true },
      ...(hasSpread ? [{ text: say("repeats") }] : []), { text: say("temperature"), isNumber: true }, { text: say("source") },
    ],
    rows: report.contestants.map((row) => ({
      key: row.key, isStrong: row.key === "ensemble", title: row.absent.join("\n"),
      cells: [
        { text: row.title }, { text: figure(row.perplexity, 2) }, ...against(row.vs_dense, row.vs_dense_percent, say),
        { text: figure(row.perplexity_macro, 2) }, ...against(row.vs_dense_macro, null, say),
        ...(hasSpread ? [{ text: row.spread ? spreadOf(row.spread) : NONE }] : []), { text: String(row.temperature ?? NONE) },
        row.branch_id ? { text: row.checkpoint_id?.slice(-8) ?? NONE, href: `branches/${row.branch_id}` } : { text: row.evaluation_id.slice(-8), tone: "muted" as const },
      ],
    })),
  };
}

export function contestantCostsTable(report: Report, say: Say): Table {
  return {
    isSmall: true,
    columns: [{ text: say("name"), isWide: true }, ...(["activeParameters", "forwardPasses", "trainingTokens", "gpuHours", "slotHours", "hoursPerNat"] as const).map((key) => ({ text: say(key), isNumber: true }))],
    rows: report.contestants.map(({ key, title, cost }) => ({
      key,
      cells: [title, orNone(cost.parameters_active, tokens), String(cost.forward_passes ?? NONE), tokens(cost.training_tokens), cost.gpu_hours > 0 ? cost.gpu_hours.toFixed(2) : NONE, cost.cpu_slot_hours > 0 ? cost.cpu_slot_hours.toFixed(2) : NONE, figure(cost.hours_per_nat, 2)].map((text) => ({ text })),
    })),
  };
}

export function surfaceTable(report: Report, say: Say): Table {
  const curves = surfaceCurves(report.surface);
  const temperatures = [...new Set(report.surface.map((row) => row.temperature))].sort((a, b) => a - b);
  return {
    isSmall: true, isMatrix: true,
    columns: [{ text: say("temperature"), isNumber: true, isWide: true }, ...curves.map(({ topK }) => ({ text: `top ${topK}`, isNumber: true }))],
    rows: temperatures.map((temperature) => ({
      key: String(temperature),
      cells: [{ text: String(temperature) }, ...curves.map(({ points }): Cell => {
        const cell = points.find((point) => point.temperature === temperature);
        return cell ? { text: `${cell.isBest ? "★ " : ""}${figure(cell.calibration, 4)} / ${figure(cell.reported, 4)}`, isOwn: cell.isChosen } : { text: NONE };
      })],
    })),
  };
}

/** Every model on every domain. What differs from dense by no more than the threshold is not coloured; ▲ marks what is worse. */
export function matrixTable(report: Report, say: Say, { threshold, hasControls }: { threshold: number; hasControls: boolean }): Table {
  return {
    isSmall: true, isMatrix: true,
    columns: [{ text: say("branch"), isWide: true }, ...report.domains.map((domain) => ({ text: `${domain.index} ${domain.label}`, title: domain.top_terms.join(", "), href: `experiments/${report.experiment_id}/domains/${domain.index}` }))],
    rows: folded(report.matrix, hasControls).rows.map((row) => ({
      key: row.branch,
      cells: [
        branchCell(row.branch, row.branch_id, row.domain == null ? "" : (report.domains.find((domain) => domain.index === row.domain)?.top_terms.slice(0, 3).join(", ") ?? "")),
        ...report.domains.map(({ index }): Cell => {
          const [loss, delta] = [row.domains.find((cell) => cell.domain === index)?.loss, deltaOn(report, row, index)];
          const isMarked = delta !== null && Math.abs(delta) > threshold;
          return { text: figure(loss, 3), isOwn: row.domain === index, note: delta === null ? "" : `${isMarked && delta > 0 ? "▲ " : ""}${signed(delta, 2)}`, ...(isMarked ? { heat: heat(delta) } : {}) };
        }),
      ],
    })),
  };
}

export function chainTable(report: Report, chain: Chain, say: Say, threshold: number): Table {
  const forgot = (link: Chain["links"][number]) => link.forgetting.map(({ domain, loss_delta: delta }) => `${delta > threshold ? "▲ " : ""}${domain}: ${signed(delta, 3)}`).join(" · ");
  return {
    isSmall: true,
    columns: [{ text: say("branch") }, { text: say("domain") }, { text: say("lossAll"), isNumber: true }, { text: say("forgot"), isWide: true }],
    rows: chain.links.map((link) => ({
      key: link.branch,
      cells: [branchCell(link.branch, link.branch_id), { text: labelOf(report, link.domain) }, { text: figure(link.loss, 3) }, { text: forgot(link), ...(link.forgetting.some((found) => found.loss_delta > threshold) ? { tone: "bad" as const } : {}) }],
    })),
  };
}

export function domainsTable(report: Report, say: Say): Table {
  return {
    isSmall: true,
    columns: [
      { text: "#" }, { text: say("label") }, { text: say("documents"), isNumber: true }, { text: say("heldOut"), isNumber: true }, { text: say("weight"), isNumber: true, title: say("byShareHelp") },
      { text: say("tokens"), isNumber: true }, { text: say("share"), isNumber: true }, { text: say("terms"), isWide: true },
    ],
    rows: report.domains.map((domain) => ({
      key: String(domain.index),
      cells: [{ text: String(domain.index) }, { text: domain.label, href: `experiments/${report.experiment_id}/domains/${domain.index}` }, { text: whole(domain.documents) }, { text: whole(domain.documents_held_out) }, { text: shareOf(domain.weight) }, { text: tokens(domain.tokens) }, { text: shareOf(domain.share) }, { text: domain.top_terms.join(", "), tone: "muted" }],
    })),
  };
}

export function costsTable(report: Report, say: Say): Table {
  return {
    isSmall: true,
    columns: [{ text: say("branch"), isWide: true }, { text: say("tokens"), isNumber: true }, { text: say("fresh"), isNumber: true, title: say("freshHelp") }, ...(["took", "slotTime", "speed", "checkpoints"] as const).map((key) => ({ text: say(key), isNumber: true }))],
    rows: report.costs.map((cost) => ({
      key: cost.branch,
      cells: [
        branchCell(cost.branch, cost.branch_id), { text: tokens(cost.tokens) }, { text: orNone(cost.fresh_share, (share) => shareOf(share, 0)) }, { text: duration(cost.wall_seconds) },
        { text: `${(cost.gpu_hours + cost.cpu_slot_hours).toFixed(2)} ${say(cost.gpu_hours > 0 ? "gpuHours" : "slotHours")}` }, { text: orNone(cost.tokens_per_second, (rate) => `${whole(rate)} tokens/s`) }, { text: bytes(cost.checkpoint_bytes) },
      ],
    })),
  };
}

// Draws traces on a canvas: bands, raw lines faint, smoothed ones bold, lost values as marks at the foot. Reads only what
// is in view, so a pan costs the same however long the curves are.
import { firstFrom, type Trace } from "./traces";

/** Device pixels of the plot, and what lies at its edges. */
export type Frame = { left: number; top: number; width: number; height: number; ratio: number; from: number; to: number; low: number; high: number; isLog: boolean };
export type Manner = { hasBand: boolean; isMoving: boolean };

/** Points of all traces from which on bands and faint lines wait while a view moves. */
const MOVING_MAX = 4000;
/** Traces from which on bands and faint lines would only hide each other. */
export const FAINT_MAX = 30;

type Scale = { x: (value: number) => number; y: (value: number) => number };

function scaleOf(frame: Frame): Scale {
  const level = (value: number) => (frame.isLog ? Math.log(Math.max(value, Number.MIN_VALUE)) : value);
  const [low, high] = [level(frame.low), level(frame.high)];
  const [across, up] = [frame.width / (frame.to - frame.from || 1), frame.height / (high - low || 1)];
  const foot = frame.top + frame.height;
  // Beyond the edges by so much a canvas need not follow.
  const near = (y: number) => Math.min(foot + 5000, Math.max(frame.top - 5000, y));
  return { x: (value) => frame.left + (value - frame.from) * across, y: (value) => near(foot - (level(value) - low) * up) };
}

/** Indices in view, and one on each side. */
function inside(x: number[], { from, to }: { from: number; to: number }): [number, number] {
  return [Math.max(0, firstFrom(x, from) - 1), Math.min(x.length, firstFrom(x, to) + 1)];
}

/** A part of some columns that is in view. */
export function partOf(x: number[], values: (number | null)[], view: { from: number; to: number }): (number | null)[] {
  return values.slice(firstFrom(x, view.from), firstFrom(x, view.to + Number.EPSILON * Math.abs(view.to)));
}

/** A curve as lines. Where several points lie in one column of pixels, its first, least, greatest and last are all there is to see. */
function line(ctx: CanvasRenderingContext2D, { x, gap, members }: Trace, values: (number | null)[], [first, end]: [number, number], scale: Scale, width: number) {
  ctx.beginPath();
  const isDense = end - first > 4 * width;
  let isOpen = false;
  let column = NaN;
  let [enter, low, high, leave] = [0, 0, 0, 0];
  const flush = () => {
    if (Number.isNaN(column)) return;
    if (isOpen) ctx.lineTo(column, enter);
    else ctx.moveTo(column, enter);
    if (low !== high) {
      ctx.lineTo(column, low);
      ctx.lineTo(column, high);
      ctx.lineTo(column, leave);
    }
    isOpen = true;
    column = NaN;
  };
  const lift = () => {
    if (isDense) flush();
    isOpen = false;
  };
  for (let i = first; i < end; i += 1) {
    const value = values[i];
    const place = x[i] ?? 0;
    if (gap !== Infinity && place - (x[i - 1] ?? 0) > gap) lift();
    if (value == null) {
      if (members > 1) lift();
      continue;
    }
    const [px, py] = [scale.x(place), scale.y(value)];
    if (isDense) {
      const own = Math.round(px);
      if (own === column) {
        [low, high, leave] = [Math.min(low, py), Math.max(high, py), py];
      } else {
        flush();
        [column, enter, low, high, leave] = [own, py, py, py, py];
      }
      continue;
    }
    if (isOpen) ctx.lineTo(px, py);
    else ctx.moveTo(px, py);
    isOpen = true;
  }
  flush();
  ctx.stroke();
}

function band(ctx: CanvasRenderingContext2D, trace: Trace, [first, end]: [number, number], scale: Scale) {
  for (let i = first; i < end; i += 1) {
    if (trace.low[i] == null) continue;
    let last = i;
    while (last + 1 < end && trace.low[last + 1] != null) last += 1;
    ctx.beginPath();
    for (let k = i; k <= last; k += 1) ctx.lineTo(scale.x(trace.x[k] ?? 0), scale.y(trace.high[k] ?? 0));
    for (let k = last; k >= i; k -= 1) ctx.lineTo(scale.x(trace.x[k] ?? 0), scale.y(trace.low[k] ?? 0));
    ctx.fill();
    i = last;
  }
}

/** Small crosses at the foot where a value was lost. */
function lost(ctx: CanvasRenderingContext2D, trace: Trace, [first, end]: [number, number], scale: Scale, { top, height, ratio }: Frame) {
  const [foot, arm] = [top + height - 5 * ratio, 3 * ratio];
  ctx.beginPath();
  for (let i = first; i < end; i += 1) {
    if (trace.raw[i] !== null) continue;
    const x = scale.x(trace.x[i] ?? 0);
    for (const side of [-1, 1]) {
      ctx.moveTo(x - arm, foot - side * arm);
      ctx.lineTo(x + arm, foot + side * arm);
    }
  }
  ctx.stroke();
}

/** The reference last, so that it lies above all others. */
export function drawTraces(ctx: CanvasRenderingContext2D, traces: Trace[], frame: Frame, { hasBand, isMoving }: Manner) {
  const scale = scaleOf(frame);
  const all = traces.toSorted((a, b) => Number(a.isReference) - Number(b.isReference)).map((trace) => ({ trace, part: inside(trace.x, frame) }));
  const points = all.reduce((sum, { part }) => sum + part[1] - part[0], 0);
  const hasFaint = all.length <= FAINT_MAX && !(isMoving && points > MOVING_MAX);
  ctx.save();
  ctx.beginPath();
  ctx.rect(frame.left, frame.top, frame.width, frame.height);
  ctx.clip();
  ctx.lineJoin = all.length > FAINT_MAX ? "bevel" : "round";
  for (const { trace, part } of all) {
    ctx.fillStyle = `${trace.look.stroke}2e`;
    if (((hasBand && hasFaint) || trace.members > 1) && trace.low.length > 0) band(ctx, trace, part, scale);
  }
  ctx.setLineDash([]);
  for (const { trace, part } of all) {
    ctx.strokeStyle = trace.look.stroke;
    ctx.lineWidth = frame.ratio;
    if (trace.raw !== trace.bold && hasFaint) {
      ctx.globalAlpha = all.length > 20 ? 0.25 : 0.45;
      line(ctx, trace, trace.raw, part, scale, frame.width);
    }
    ctx.globalAlpha = 1;
    lost(ctx, trace, part, scale, frame);
  }
  for (const { trace, part } of all) {
    ctx.strokeStyle = trace.look.stroke;
    ctx.lineWidth = (trace.isReference ? 2.5 : all.length > 20 ? 1.25 : 2) * frame.ratio;
    ctx.setLineDash(trace.look.dash.map((length) => length * frame.ratio));
    line(ctx, trace, trace.bold, part, scale, frame.width);
  }
  ctx.restore();
}

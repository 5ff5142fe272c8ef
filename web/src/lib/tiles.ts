// Curves while a view pans: drawn once, in tiles, which are then only moved; what comes into view is one tile more. A pan
// costs a few copies, however many points there are.
import { drawTraces, type Frame } from "./draw";
import type { Trace } from "./traces";

/** Device pixels of a tile: small enough to be drawn within a frame, large enough that few are copied. */
export const TILE = 192;
/** Tiles that are kept: those of a wide plot and as many on either side. */
const TILES_MAX = 40;
/** A pan changes the width of its view by no more than rounding does. */
const SAME = 1e-9;

/** What the tiles are of: pixels by unit of the x axis, from an anchor on; and what of the y axis. */
export type Scale = { anchor: number; across: number; low: number; high: number; isLog: boolean; height: number; ratio: number };

export const scaleOf = ({ from, to, width, low, high, isLog, height, ratio }: Frame): Scale => ({ anchor: from, across: width / (to - from), low, high, isLog, height, ratio });

/** Whether tiles of one scale serve a frame. */
export function serves(scale: Scale, frame: Frame): boolean {
  const now = scaleOf(frame);
  return Math.abs(now.across / scale.across - 1) < SAME && now.low === scale.low && now.high === scale.high && now.isLog === scale.isLog && now.height === scale.height && now.ratio === scale.ratio;
}

/** The tiles that a frame shows, and where in the frame each begins, in whole pixels. */
export function placesOf(scale: Scale, { from, width }: Pick<Frame, "from" | "width">): { index: number; left: number }[] {
  const offset = Math.round((from - scale.anchor) * scale.across);
  const [first, last] = [Math.floor(offset / TILE), Math.floor((offset + width - 1) / TILE)];
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => ({ index: first + i, left: (first + i) * TILE - offset }));
}

/** The frame of one tile. */
export function frameOf({ anchor, across, low, high, isLog, height, ratio }: Scale, index: number): Frame {
  const from = anchor + (index * TILE) / across;
  return { left: 0, top: 0, width: TILE, height, ratio, from, to: from + TILE / across, low, high, isLog };
}

const idle = (run: () => void) => (typeof requestIdleCallback === "function" ? requestIdleCallback(run) : 0);

export class Tiles {
  #scale: Scale | null = null;
  #traces: Trace[] = [];
  #hasBand = false;
  #kept = new Map<number, HTMLCanvasElement>();
  #waiting = 0;
  #from = 0;

  /** Draws what a moving view shows. */
  draw(ctx: CanvasRenderingContext2D, traces: Trace[], frame: Frame, hasBand: boolean) {
    const isAlike = this.#scale && serves(this.#scale, frame) && hasBand === this.#hasBand && traces.length === this.#traces.length && traces.every((trace, i) => trace === this.#traces[i]);
    if (!isAlike) this.#begin(traces, frame, hasBand);
    const scale = this.#scale ?? scaleOf(frame);
    const places = placesOf(scale, frame);
    ctx.save();
    ctx.beginPath();
    ctx.rect(frame.left, frame.top, frame.width, frame.height);
    ctx.clip();
    for (const { index, left } of places) ctx.drawImage(this.#tile(scale, index), frame.left + left, frame.top);
    ctx.restore();
    // What the pan goes towards is drawn before it is there.
    const [first, last] = [places[0]?.index ?? 0, places.at(-1)?.index ?? 0];
    this.#ahead(scale, frame.from < this.#from ? first - 1 : last + 1);
    this.#from = frame.from;
  }

  /** Forgets all; a view that rests is drawn in full. */
  clear() {
    if (this.#waiting) cancelIdleCallback(this.#waiting);
    this.#waiting = 0;
    this.#scale = null;
    this.#traces = [];
    this.#kept.clear();
  }

  #begin(traces: Trace[], frame: Frame, hasBand: boolean) {
    this.clear();
    [this.#scale, this.#traces, this.#hasBand, this.#from] = [scaleOf(frame), traces, hasBand, frame.from];
  }

  #tile(scale: Scale, index: number): HTMLCanvasElement {
    const found = this.#kept.get(index);
    if (found) return found;
    const oldest = this.#kept.keys().next();
    if (this.#kept.size >= TILES_MAX && !oldest.done) this.#kept.delete(oldest.value);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [TILE, Math.max(1, Math.round(scale.height))];
    const ctx = canvas.getContext("2d");
    if (ctx) drawTraces(ctx, this.#traces, frameOf(scale, index), { hasBand: this.#hasBand, isMoving: true });
    this.#kept.set(index, canvas);
    return canvas;
  }

  #ahead(scale: Scale, index: number) {
    if (this.#waiting || this.#kept.has(index)) return;
    this.#waiting = idle(() => {
      this.#waiting = 0;
      if (this.#scale === scale) this.#tile(scale, index);
    });
  }
}

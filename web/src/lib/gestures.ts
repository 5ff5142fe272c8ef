// Fingers, mouse, wheel and keys over a plot, as views: a shift-drag and one finger pan, two fingers and the wheel with
// Ctrl zoom, keys do all of it. A plain drag is uPlot's own selection.
import { panned, scaled, type View } from "./zoom";

export type Plotted = {
  /** What is shown now. */
  view: () => View | null;
  /** While it moves. */
  move: (view: View) => void;
  /** When it has come to rest; null for all. */
  rest: (view: View | null) => void;
  /** When it is left while it moves. */
  drop: () => void;
  /** Moves the cursor by a share of the width. */
  step: (by: number) => void;
  /** The share of the width at which the cursor is; null where there is none. */
  cursor: () => number | null;
};

/** Milliseconds without a key or a turn of the wheel after which a view rests. */
const SETTLES_MS = 400;
/** Pixels before a touch is a pan and no tap. */
const TAP = 6;

type Held = { share: number };

/** Follows what happens over an element; returns how to stop. */
export function follow(over: HTMLElement, focus: HTMLElement, plot: Plotted): () => void {
  const fingers = new Map<number, Held>();
  const ending = new AbortController();
  const { signal } = ending;
  let begun: { view: View; shares: number[] } | null = null;
  let moved: View | null = null;
  let settles: ReturnType<typeof setTimeout> | undefined;

  const shareAt = (event: { clientX: number }) => {
    const { left, width } = over.getBoundingClientRect();
    return (event.clientX - left) / Math.max(1, width);
  };
  const begin = () => {
    const view = moved ?? plot.view();
    begun = view && fingers.size > 0 ? { view, shares: [...fingers.values()].map((finger) => finger.share) } : null;
  };
  const show = (view: View) => {
    moved = view;
    plot.move(view);
  };
  const settle = () => {
    clearTimeout(settles);
    settles = setTimeout(() => {
      if (moved) plot.rest(moved);
      moved = null;
    }, SETTLES_MS);
  };

  over.addEventListener("pointerdown", (event) => {
    const isPan = event.pointerType === "mouse" ? event.shiftKey && event.button === 0 : true;
    if (!isPan) return;
    if (event.pointerType === "mouse") over.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { share: shareAt(event) });
    begin();
  }, { signal });
  over.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId);
    if (!finger || !begun) return;
    finger.share = shareAt(event);
    const [a, b] = [...fingers.values()].map((held) => held.share);
    const [a0, b0] = begun.shares;
    if (a === undefined || a0 === undefined) return;
    if (b === undefined || b0 === undefined) {
      if (!moved && Math.abs(a - a0) * over.clientWidth < TAP) return;
      return show(panned(begun.view, a0 - a));
    }
    // What was between the fingers stays between them.
    const factor = Math.abs(b0 - a0) / Math.max(0.02, Math.abs(b - a));
    const zoomed = scaled(begun.view, factor, (a0 + b0) / 2);
    show(panned(zoomed, (a0 + b0) / 2 - (a + b) / 2));
  }, { signal });
  for (const end of ["pointerup", "pointercancel"] as const) {
    over.addEventListener(end, (event) => {
      if (!fingers.delete(event.pointerId)) return;
      begin();
      if (fingers.size > 0 || !moved) return;
      plot.rest(moved);
      moved = null;
    }, { signal });
  }
  over.addEventListener("wheel", (event) => {
    const view = moved ?? plot.view();
    if (!event.ctrlKey || !view) return;
    event.preventDefault();
    show(scaled(view, Math.exp(event.deltaY / 200), shareAt(event)));
    settle();
  }, { signal, passive: false });
  focus.addEventListener("keydown", (event) => {
    if (event.target !== focus || event.ctrlKey || event.metaKey || event.altKey) return;
    const view = moved ?? plot.view();
    const by = event.key === "ArrowLeft" ? -1 : event.key === "ArrowRight" ? 1 : 0;
    const factor = event.key === "+" || event.key === "=" ? 1 / 1.5 : event.key === "-" ? 1.5 : 0;
    if (by !== 0 && !event.shiftKey) plot.step(by * 0.01);
    else if (view && (by !== 0 || factor !== 0)) {
      show(by !== 0 ? panned(view, by * 0.1) : scaled(view, factor, plot.cursor() ?? 0.5));
      settle();
    } else if (event.key === "0" || event.key === "Escape") {
      moved = null;
      clearTimeout(settles);
      plot.rest(null);
    } else return;
    event.preventDefault();
  }, { signal });
  return () => {
    ending.abort();
    clearTimeout(settles);
    // What had not come to rest must not move the other charts for ever.
    if (moved) plot.drop();
  };
}

// The curves of an experiment or a branch while it trains: read whole once, then grown by what the stream tells; read
// whole again only where something may be missing, or where a page that stays open has more points than it needs.
import { onMount } from "svelte";
import type { Metrics, NewPoints } from "./api";
import { listen } from "./hub.svelte";
import { grow } from "./metrics";
import { Resource } from "./resource.svelte";

const REST_MS = 500;
/** What the stream tells within so long is drawn at once, however many branches train. */
const GATHER_MS = 200;

export type Curves = Record<string, Metrics>;

/** Curves by branch. `read` reads them whole; `isMine` says which branches' points belong here; nothing is missed once it is over. */
export function liveCurves(read: (signal: AbortSignal) => Promise<Metrics[]>, experiment: () => string | undefined, isMine: (branch: string) => boolean, pointsMax: () => number, isOver = () => false): Resource<Curves> {
  // What the stream tells while a reading is under way may not be in its answer.
  let meanwhile: NewPoints[] = [];
  const append = (curves: Curves, points: NewPoints): Curves => {
    const metrics = curves[points.branch_id];
    return metrics ? { ...curves, [points.branch_id]: grow(metrics, points) } : curves;
  };
  const resource: Resource<Curves> = new Resource(async (signal) => {
    // What was told before is in the answer, and may have been taken back since.
    take();
    meanwhile = [];
    const all = await read(signal);
    return meanwhile.reduce(append, Object.fromEntries(all.map((metrics) => [metrics.branch_id, metrics])));
  });
  const whole = () => resource.soon(REST_MS);
  let told: NewPoints[] = [];
  let timer: ReturnType<typeof setTimeout> | undefined;
  function metrics(points: NewPoints) {
    if (!isMine(points.branch_id)) return;
    if (resource.isBusy) meanwhile.push(points);
    told.push(points);
    timer ??= setTimeout(draw, GATHER_MS);
  }
  function take(): NewPoints[] {
    const points = told;
    clearTimeout(timer);
    [told, timer] = [[], undefined];
    if (resource.value) resource.value = points.reduce(append, resource.value);
    return points;
  }
  function draw() {
    const points = take();
    if (!resource.value) return;
    // One that is new, and one that has become too long, is read whole.
    if (points.some(({ branch_id: id }) => (resource.value?.[id]?.steps.length ?? Infinity) > 2 * pointsMax())) whole();
  }
  let gap: ReturnType<typeof setTimeout> | undefined;
  function missed() {
    gap = undefined;
    if (!isOver() || resource.failure) void resource.load();
  }
  onMount(() => {
    void resource.load();
    const stop = listen(
      {
        metrics,
        gap: () => { gap ??= setTimeout(missed, REST_MS); },
        event: (event) => {
          const known = event.branch_id && resource.value?.[event.branch_id];
          if (!known || event.step == null || !isMine(known.branch_id)) return;
          // Another attempt takes the place of what was drawn.
          if (event.kind === "attempt_resumed" || event.kind === "attempt_started" || event.kind === "rolled_back") return whole();
          resource.value = { ...resource.value, [known.branch_id]: { ...known, events: [...known.events, event] } };
        },
      },
      experiment(),
    );
    return () => {
      stop();
      clearTimeout(timer);
      clearTimeout(gap);
      resource.stop();
    };
  });
  return resource;
}

// The curves of an experiment or a branch while it trains: read whole once, then grown by what the stream tells; read
// whole again only where something may be missing, or where a page that stays open has more points than it needs.
import { onMount } from "svelte";
import type { Metrics, NewPoints } from "./api";
import { listen } from "./hub.svelte";
import { grow } from "./metrics";
import { Resource } from "./resource.svelte";

const REST_MS = 500;

export type Curves = Record<string, Metrics>;

/** Curves by branch. `read` reads them whole; `isMine` says which branches' points belong here. */
export function liveCurves(read: (signal: AbortSignal) => Promise<Metrics[]>, experiment: () => string | undefined, isMine: (branch: string) => boolean, pointsMax: number): Resource<Curves> {
  // What the stream tells while a reading is under way may not be in its answer.
  let meanwhile: NewPoints[] = [];
  const append = (curves: Curves, points: NewPoints): Curves => {
    const metrics = curves[points.branch_id];
    return metrics ? { ...curves, [points.branch_id]: grow(metrics, points) } : curves;
  };
  const resource: Resource<Curves> = new Resource(async (signal) => {
    meanwhile = [];
    const all = await read(signal);
    return meanwhile.reduce(append, Object.fromEntries(all.map((metrics) => [metrics.branch_id, metrics])));
  });
  const whole = () => resource.soon(REST_MS);
  function metrics(points: NewPoints) {
    if (!isMine(points.branch_id)) return;
    if (resource.isBusy) meanwhile.push(points);
    if (!resource.value) return;
    const known = resource.value[points.branch_id];
    resource.value = append(resource.value, points);
    if (!known || known.steps.length > 2 * pointsMax) whole();
  }
  onMount(() => {
    void resource.load();
    const stop = listen(
      {
        metrics,
        gap: whole,
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
      resource.stop();
    };
  });
  return resource;
}

// The REST API: one fetch, one stream. Types are generated from openapi.json.

import type { components } from "./schema";

type S = components["schemas"];
export type Summary = S["ExperimentSummary"];
export type Experiment = S["ExperimentView"];
export type Branch = S["BranchView"];
export type Metrics = S["MetricsView"];
export type Report = S["Report"];
export type Domain = S["DomainView"];
export type Worker = S["WorkerView"];
export type Job = S["JobView"];
export type Checkpoint = S["CheckpointView"];
export type Attempt = S["AttemptView"];
export type Event = S["EventView"];
export type Goodput = S["GoodputView"];
export type Skip = S["SkipView"];
export type Fleet = S["FleetView"];
export type Session = S["SessionView"];
export type Login = S["LoginView"];
export type Problem = S["Problem"];
export type NewPoints = S["StreamMetrics"];
export type Storage = S["StorageView"];

export class ApiError extends Error {
  constructor(public problem: Problem) {
    super(`${problem.detail} (${problem.request_id})`);
  }
}

async function request<T>(method: string, path: string, body?: unknown, signal: AbortSignal | null = null): Promise<T> {
  const headers: Record<string, string> = { "X-Senmon": "1" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  // A click that is sent twice by the network does one thing.
  if (method !== "GET") headers["Idempotency-Key"] = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const response = await fetch(`api/v1${path}`, { method, headers, body: body === undefined ? null : JSON.stringify(body), signal });
  const text = await response.text();
  if (!response.ok) throw new ApiError(JSON.parse(text) as Problem);
  return (response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : text) as T;
}

/** Reads again while the server is away or busy: it restarts within seconds, and the page goes on. A signal ends it. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  for (const pause of [500, 1000, 2000, 4000]) {
    try {
      return await request<T>("GET", path, undefined, signal);
    } catch (error) {
      if (signal?.aborted || (error instanceof ApiError && error.problem.status < 500)) throw error;
      await new Promise((go) => setTimeout(go, pause));
    }
  }
  return request<T>("GET", path, undefined, signal);
}

/** One page of a list, and whether there is another. */
export type Page<T> = { items: T[]; next_cursor?: string | null; broken?: { id: string; problem: string }[] };

/** All items of a list, page by page. */
export async function all<T>(path: string): Promise<T[]> {
  const items: T[] = [];
  for (let cursor = ""; ; ) {
    const page = await get<Page<T>>(`${path}${path.includes("?") ? "&" : "?"}limit=500${cursor}`);
    items.push(...page.items);
    if (!page.next_cursor) return items;
    cursor = `&cursor=${encodeURIComponent(page.next_cursor)}`;
  }
}
export const post = <T>(path: string, body: unknown = {}) => request<T>("POST", path, body);
export const remove = (path: string) => request<void>("DELETE", path);

type Listeners = { metrics?: (points: NewPoints) => void; fleet?: (fleet: Fleet) => void; changed?: () => void };

/** Follows the stream; after a gap `changed` is called, because messages are hints. Returns how to stop. */
export function listen(path: string, on: Listeners): () => void {
  const source = new EventSource(`api/v1/stream${path}`);
  const data = <T>(event: MessageEvent) => JSON.parse(event.data as string) as T;
  let wasOpen = false;
  source.onopen = () => {
    if (wasOpen) on.changed?.();
    wasOpen = true;
  };
  source.addEventListener("metrics", (event) => on.metrics?.(data<NewPoints>(event)));
  source.addEventListener("fleet", (event) => on.fleet?.(data<Fleet>(event)));
  for (const name of ["experiment", "event", "resync"]) source.addEventListener(name, () => on.changed?.());
  return () => source.close();
}

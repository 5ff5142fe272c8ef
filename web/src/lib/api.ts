// The REST API: one fetch. Types are generated from openapi.json.

import type { components } from "./schema";

type S = components["schemas"];
export type Summary = S["ExperimentSummary"];
export type Experiment = S["ExperimentView"];
export type Stage = S["StageProgress"];
export type Branch = S["BranchView"];
export type Metrics = S["MetricsView"];
export type Report = S["Report"];
export type Ensemble = S["Ensemble"];
export type Clustering = S["ClusteringView"];
export type Domain = S["DomainView"];
export type Worker = S["WorkerView"];
export type WorkerMetrics = S["WorkerMetrics"];
export type Job = S["JobView"];
export type Checkpoint = S["CheckpointView"];
export type Attempt = S["AttemptView"];
export type Event = S["EventView"];
export type Said = S["Said"];
export type SaidValue = S["SaidValue"];
export type Goodput = S["GoodputView"];
export type Skip = S["SkipView"];
export type Logs = S["LogsView"];
export type Fleet = S["FleetView"];
export type Session = S["SessionView"];
export type Login = S["LoginView"];
export type Problem = S["Problem"];
export type Fault = S["Fault"];
export type Plan = S["PlanView"];
export type Corpus = S["CorpusView"];
export type NewPoints = S["StreamMetrics"];
export type Storage = S["StorageView"];
export type Token = S["TokenView"];
export type NewToken = S["CreatedToken"];
export type Entry = S["AuditView"];
export type Broken = S["BrokenRow"];
export type SetAside = S["SetAside"];
export type Alert = S["AlertView"];
export type Delivery = S["DeliveryView"];

/** Milliseconds after which an answer is not waited for any more. */
const PATIENCE_MS = 20_000;
/** Statuses with which a proxy says that the server is away. */
const AWAY = [502, 503, 504];
/** The status of one who asked too much; a moment later it is answered. */
const BUSY = 429;

/** A refusal, in the server's words. */
export class ApiError extends Error {
  constructor(public problem: Problem) {
    super(`${problem.detail} (${problem.request_id})`);
  }
}

/** What is told of each answer: that there was one, and that it did not know who asks. */
export const told: { answered: () => void; signedOut: () => void } = { answered: () => undefined, signedOut: () => undefined };

/** What stands in place of a problem document where a proxy answers. */
const foreign = (status: number): Problem =>
  ({ type: "about:blank", code: "foreign", title: "", status, detail: `HTTP ${status}`, faults: [], request_id: "" });

function problemOf(status: number, text: string): Problem {
  try {
    const problem = JSON.parse(text) as Partial<Problem>;
    return { ...foreign(status), ...problem };
  } catch {
    return foreign(status);
  }
}

/** A new key: with the same key and request the same thing is done once, however often it is sent. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** How something is sent. A body that is a text is a YAML file. */
type Sending = { body?: unknown; signal?: AbortSignal | undefined; key?: string; /** Refused where somebody changed it since this tag. */ match?: string | null };
/** An answer, and the tag of what it shows. */
export type Tagged<T> = { value: T; tag: string | null };

async function request<T>(method: string, path: string, sending: Sending = {}): Promise<T> {
  return (await send<T>(method, path, sending)).value;
}

async function send<T>(method: string, path: string, { body, signal, key, match }: Sending): Promise<Tagged<T>> {
  const headers: Record<string, string> = { "X-Senmon": "1" };
  const isFile = typeof body === "string";
  if (body !== undefined) headers["Content-Type"] = isFile ? "application/yaml" : "application/json";
  if (match) headers["If-Match"] = match;
  // A click that is sent twice by the network does one thing.
  if (method !== "GET") headers["Idempotency-Key"] = key ?? newKey();
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const response = await fetch(`api/v1${path}`, {
    method, headers, body: body === undefined ? null : isFile ? body : JSON.stringify(body), signal: signal ? AbortSignal.any([signal, patience]) : patience,
  });
  const text = await response.text();
  if (!AWAY.includes(response.status)) told.answered();
  if (!response.ok) {
    if (response.status === 401 && path !== "/session") told.signedOut();
    throw new ApiError(problemOf(response.status, text));
  }
  return { value: (response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : text) as T, tag: response.headers.get("etag") };
}

/** Reads again while the server is away or busy: it restarts within seconds, and the page goes on. A signal ends it. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  for (const pause of [500, 1000, 2000]) {
    try {
      return await request<T>("GET", path, { signal });
    } catch (error) {
      if (signal?.aborted || (error instanceof ApiError && error.problem.status < 500 && error.problem.status !== BUSY)) throw error;
      await new Promise((go) => setTimeout(go, pause));
    }
  }
  return request<T>("GET", path, { signal });
}

/** One page of a list, and whether there is another. */
export type Page<T> = { items: T[]; next_cursor?: string | null; broken?: Broken[] };

/** So many pages of a list as one. `path` says how much a page holds. */
export async function pagesOf<T>(path: string, count: number, signal?: AbortSignal): Promise<Page<T>> {
  const whole = { ...(await get<Page<T>>(path, signal)) };
  for (let read = 1; read < count && whole.next_cursor; read += 1) {
    const page = await get<Page<T>>(`${path}&cursor=${encodeURIComponent(whole.next_cursor)}`, signal);
    whole.items = [...whole.items, ...page.items];
    whole.broken = [...(whole.broken ?? []), ...(page.broken ?? [])];
    whole.next_cursor = page.next_cursor ?? null;
  }
  return whole;
}

/** All items of a list, page by page. */
export const allOf = async <T>(path: string, signal?: AbortSignal): Promise<T[]> =>
  (await pagesOf<T>(`${path}${path.includes("?") ? "&" : "?"}limit=500`, Infinity, signal)).items;

/** Reads once. */
export const ask = <T>(path: string, signal?: AbortSignal) => request<T>("GET", path, { signal });
/** Reads once, with the tag that a later change names. */
export const askTagged = <T>(path: string) => send<T>("GET", path, {});
export const post = <T>(path: string, body: unknown = {}, sending: Omit<Sending, "body"> = {}) => request<T>("POST", path, { ...sending, body });
/** Changes what nobody else changed since `match`. */
export const patch = <T>(path: string, body: unknown, match: string | null) => send<T>("PATCH", path, { body, match });
export const remove = (path: string) => request<void>("DELETE", path);

/** Every fault that the server named. */
export const faultsOf = (error: unknown): Fault[] => (error instanceof ApiError ? error.problem.faults : []) ?? [];

/** Why something was not read or done: in the server's words, or none where it did not answer. What it says of its own is worded where it is shown. */
export type Failure = { sentence: string | null; said?: Said | null; faults?: Fault[]; id: string; status: number };

export function failureOf(error: unknown): Failure {
  if (error instanceof ApiError) {
    const { detail, said, faults, request_id, status } = error.problem;
    return { sentence: AWAY.includes(status) && !request_id ? null : detail, said: said ?? null, faults: faults ?? [], id: request_id ?? "", status };
  }
  // A fetch that fails, or is given up, has no words of its own for people.
  if (error instanceof TypeError || (error instanceof DOMException && error.name === "TimeoutError")) return { sentence: null, id: "", status: 0 };
  return { sentence: String(error), id: "", status: 0 };
}

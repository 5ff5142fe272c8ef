// What the server tells, for all parts of all tabs: the leading tab has the one stream of this browser and passes on what
// comes by a BroadcastChannel. Also whether the server answers at all.
import { ApiError, ask, told, type Event, type Fleet, type NewPoints } from "./api";
import { base } from "./base";
import { stand, type Candidate } from "./leader";

/** A message between tabs. `changed` without an experiment is about all. */
type Message =
  | { kind: "metrics"; points: NewPoints }
  | { kind: "fleet"; fleet: Fleet }
  | { kind: "event"; event: Event }
  | { kind: "changed"; experiment: string }
  | { kind: "gap" }
  | { kind: "answered" }
  | { kind: "signedOut" };

export type Listeners = {
  metrics?: (points: NewPoints) => void;
  fleet?: (fleet: Fleet) => void;
  /** Something happened. */
  event?: (event: Event) => void;
  /** An experiment or what belongs to it is no longer as it was read. */
  changed?: () => void;
  /** Messages may be missing: the server was away, or too much came. All is to be read again. */
  gap?: () => void;
};

/** The stream tells of the fleet each second; after so long without a word the leader asks whether anybody is there. */
const QUIET_MS = 5000;
/** From here on a tab asks by itself, and leads if the leader is not heard of. */
const ALONE_MS = 9000;
/** From here on figures on the page are said to be old. */
const STALE_MS = 12_000;
/** What the tabs of this dashboard have in common; another of the same host has another. */
const NAME = `senmon${base}`;
/** Pauses between two tries to reach the server, the last for ever. */
const PAUSES_MS = [500, 1000, 2000, 3000];

export const link = $state({ answered: Date.now(), fleet: undefined as Fleet | undefined, now: Date.now(), isOver: false });

/** Whether what the page shows may be old. */
export const isStale = () => link.now - link.answered > STALE_MS;

const listeners = new Set<{ on: Listeners; experiment: string | undefined }>();
let channel: BroadcastChannel | undefined;
let candidate: Candidate | undefined;
let isLeader = false;
/** When a leader was last heard of. */
let heard = Date.now();
let isAsking = false;

/** Follows the stream, of one experiment or of all. Returns how to stop. */
export function listen(on: Listeners, experiment?: string): () => void {
  const listener = { on, experiment };
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function hear(message: Message) {
  if (message.kind === "signedOut") return over();
  heard = link.answered = Date.now();
  if (message.kind === "fleet") link.fleet = message.fleet;
  for (const { on, experiment } of listeners) {
    const concerns = (of: string | null | undefined) => !experiment || of === experiment;
    if (message.kind === "metrics" && concerns(message.points.experiment_id)) on.metrics?.(message.points);
    else if (message.kind === "fleet") on.fleet?.(message.fleet);
    else if (message.kind === "event" && concerns(message.event.experiment_id)) {
      on.event?.(message.event);
      on.changed?.();
    } else if (message.kind === "changed" && concerns(message.experiment)) on.changed?.();
    else if (message.kind === "gap") on.gap?.();
  }
}

/** To this tab and all others. */
function tell(message: Message) {
  channel?.postMessage(message);
  hear(message);
}

function over() {
  link.isOver = true;
  stop();
}

/** Whether the server answers; a session that is over ends everything. */
async function isThere(): Promise<boolean> {
  if (isAsking) return false;
  isAsking = true;
  try {
    await ask("/session", AbortSignal.timeout(QUIET_MS));
    return true;
  } catch (error) {
    if (error instanceof ApiError && error.problem.status === 401) tell({ kind: "signedOut" });
    return false;
  } finally {
    isAsking = false;
  }
}

/** Has the stream, and opens it again whenever it ends. */
function lead(until: AbortSignal) {
  isLeader = true;
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let tries = 0;
  const data = <T>(event: MessageEvent) => JSON.parse(event.data as string) as T;
  const connect = () => {
    source = new EventSource("api/v1/stream");
    source.onopen = () => {
      tries = 0;
      // What was told while no stream was open nobody heard.
      tell({ kind: "gap" });
    };
    source.onerror = () => {
      source?.close();
      timer = setTimeout(again, PAUSES_MS[Math.min(tries, PAUSES_MS.length - 1)]);
      tries += 1;
    };
    source.addEventListener("metrics", (event) => tell({ kind: "metrics", points: data<NewPoints>(event) }));
    source.addEventListener("fleet", (event) => tell({ kind: "fleet", fleet: data<Fleet>(event) }));
    source.addEventListener("event", (event) => tell({ kind: "event", event: data<Event>(event) }));
    source.addEventListener("experiment", (event) => tell({ kind: "changed", experiment: data<{ experiment_id: string }>(event).experiment_id }));
    source.addEventListener("resync", () => tell({ kind: "gap" }));
  };
  // An EventSource does not say why it failed; a question does.
  const again = async () => {
    const there = await isThere();
    if (until.aborted) return;
    if (there) connect();
    else timer = setTimeout(again, PAUSES_MS[Math.min(tries++, PAUSES_MS.length - 1)]);
  };
  connect();
  until.addEventListener("abort", () => {
    isLeader = false;
    clearTimeout(timer);
    source?.close();
  });
}

/** Each second: is there still somebody who tells? */
async function watch() {
  link.now = Date.now();
  const isQuiet = isLeader ? link.now - link.answered > QUIET_MS : link.now - heard > ALONE_MS;
  if (!channel || isAsking || !isQuiet) return;
  if (!(await isThere())) return;
  if (isLeader) tell({ kind: "answered" });
  else candidate?.seize();
}

/** Takes part, from the sign-in on. */
export function start() {
  if (channel) return;
  link.isOver = false;
  heard = link.answered = Date.now();
  channel = new BroadcastChannel(NAME);
  channel.onmessage = (event) => hear(event.data as Message);
  candidate = stand(NAME, lead);
}

function stop() {
  candidate?.stop();
  channel?.close();
  candidate = channel = undefined;
}

/** Signs all tabs out. */
export function signOut() {
  tell({ kind: "signedOut" });
}

told.answered = () => (link.answered = Date.now());
told.signedOut = () => {
  if (channel) tell({ kind: "signedOut" });
};
setInterval(() => void watch(), 1000);
// A page that is left but kept in memory holds neither stream nor lead; when it comes back, it takes part again.
let wasPart = false;
window.addEventListener("pagehide", () => {
  wasPart = channel !== undefined;
  stop();
});
window.addEventListener("pageshow", (event) => {
  if (!event.persisted || !wasPart) return;
  start();
  hear({ kind: "gap" });
});

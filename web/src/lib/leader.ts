// One of a browser's tabs leads. Where the browser has Web Locks, the lock's holder; where it has none (plain http from
// another machine), whoever holds the lease that all tabs see in their common storage. Two leaders for a moment do no harm:
// what they tell are hints.

/** Milliseconds after which a lease counts no more: three renewals. */
const LEASE_MS = 3000;
const RENEW_MS = 1000;

/** What a tab does while it leads, until the signal says that it does no longer. */
export type Lead = (until: AbortSignal) => void;

export type Candidate = { stop: () => void; seize: () => void };

/** Stands for election from now on. `seize` takes the lead from a leader that is not heard of; `stop` lets go and stands no more. */
export function stand(name: string, lead: Lead): Candidate {
  return "locks" in navigator ? byLock(name, lead) : byLease(name, lead);
}

function byLock(name: string, lead: Lead): Candidate {
  const ending = new AbortController();
  let leading: AbortController | undefined;
  const hold = () =>
    new Promise<void>((release) => {
      if (ending.signal.aborted) return release();
      leading = new AbortController();
      leading.signal.addEventListener("abort", () => release());
      lead(leading.signal);
    });
  const ask = (options: LockOptions) => {
    navigator.locks.request(name, options, hold).catch(() => {
      // Taken away, or no longer wanted.
      leading?.abort();
      leading = undefined;
      if (!ending.signal.aborted) ask({ signal: ending.signal });
    });
  };
  ask({ signal: ending.signal });
  return {
    stop: () => {
      ending.abort();
      leading?.abort();
    },
    seize: () => {
      if (!leading && !ending.signal.aborted) ask({ steal: true });
    },
  };
}

function byLease(name: string, lead: Lead): Candidate {
  const id = Math.random().toString(36).slice(2);
  const key = `senmon.lease.${name}`;
  let leading: AbortController | undefined;
  const take = () => localStorage.setItem(key, `${id} ${Date.now()}`);
  const look = () => {
    const [holder, at] = (localStorage.getItem(key) ?? "").split(" ");
    const isOver = !(Math.abs(Date.now() - Number(at)) < LEASE_MS);
    if (holder === id && leading) return take();
    leading?.abort();
    leading = undefined;
    if (holder !== id && !isOver) return;
    // Who takes it leads from the next look on, if nobody else took it in between.
    if (holder === id) lead((leading = new AbortController()).signal);
    take();
  };
  look();
  const timer = setInterval(look, RENEW_MS);
  return {
    stop: () => {
      clearInterval(timer);
      if (leading) localStorage.removeItem(key);
      leading?.abort();
    },
    seize: () => {
      if (!leading) take();
    },
  };
}

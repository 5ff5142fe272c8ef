// What a part of a page has read: loading, there, or failed; never one for another.
import { onMount } from "svelte";
import { failureOf, type Failure } from "./api";
import { listen, type Listeners } from "./hub.svelte";

/** Why a read was given up by the page itself. */
const LEFT = "left";

export class Resource<T> {
  value = $state.raw<T>();
  failure = $state.raw<Failure | null>(null);
  isBusy = $state(false);
  #isWantedAgain = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ending = new AbortController();
  #reading: Promise<void> | undefined;

  constructor(private readonly read: (signal: AbortSignal) => Promise<T>) {}

  /** Reads; whoever asks meanwhile gets one more reading afterwards. */
  load = async (): Promise<void> => {
    if (this.isBusy) {
      this.#isWantedAgain = true;
      return;
    }
    this.#reading = this.#read();
    await this.#reading;
  };

  /** Waits for the reading under way, where nothing is there yet. */
  first = async (): Promise<T | undefined> => {
    if (this.value === undefined) await this.#reading;
    return this.value;
  };

  async #read(): Promise<void> {
    this.#timer = void clearTimeout(this.#timer);
    this.isBusy = true;
    const { signal } = this.#ending;
    try {
      const value = await this.read(signal);
      if (signal.aborted) return;
      this.value = value;
      this.failure = null;
    } catch (error) {
      if (signal.aborted) return;
      this.failure = failureOf(error);
    } finally {
      this.isBusy = false;
    }
    if (this.#isWantedAgain) {
      this.#isWantedAgain = false;
      await this.load();
    }
  }

  /** Reads within so many milliseconds, once however often it is asked. */
  soon(ms: number) {
    this.#timer ??= setTimeout(() => void this.load(), ms);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#ending.abort(LEFT);
  }
}

type Options = {
  /** Only what concerns one experiment makes it read again. */
  experiment?: string | undefined;
  /** What makes it read again, besides a gap. */
  on?: (again: () => void) => Listeners;
  /** Milliseconds that changes are gathered for. */
  rest?: number;
};

/** A resource that lives as long as the component that calls this, and reads again when the server says that it changed. */
export function live<T>(read: (signal: AbortSignal) => Promise<T>, { experiment, on, rest = 500 }: Options = {}): Resource<T> {
  const resource = new Resource(read);
  const again = () => resource.soon(rest);
  onMount(() => {
    void resource.load();
    const stop = listen({ gap: again, ...(on ? on(again) : { changed: again }) }, experiment);
    return () => {
      stop();
      resource.stop();
    };
  });
  return resource;
}

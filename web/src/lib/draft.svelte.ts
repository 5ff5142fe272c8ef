// An experiment file that is being written: what it would do and what would be refused, asked for while one types; sent once.
import { failureOf, faultsOf, newKey, post, type Experiment, type Failure, type Fault, type Plan } from "./api";
import { base } from "./base";
import { notesOf, type Note } from "./faults";
import { readFile } from "./file";

/** Milliseconds without a key after which the plan is asked for. */
const REST_MS = 400;
/** What was written is there again after a reload. */
const KEPT = `senmon.draft${base}`;

export class Draft {
  text = $state("");
  /** What it would do, of the newest text that the server could read. */
  plan = $state.raw<Plan | null>(null);
  isAsking = $state(false);
  /** Why the plan could not be made, besides what is wrong with the file. */
  failure = $state.raw<Failure | null>(null);
  read = $derived(readFile(this.text));
  #faults = $state.raw<Fault[]>([]);
  #warnings = $state.raw<Fault[]>([]);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #ending: AbortController | undefined;
  #sent = { text: "", key: "" };

  /** What stands beside the lines; a text that cannot be read has one fault. */
  notes = $derived.by((): Note[] => {
    const { fault } = this.read;
    if (fault) return [{ line: fault.line, path: "", message: fault.message, said: null, tone: "bad", word: null, hint: null }];
    return [...notesOf(this.read, this.#faults), ...notesOf(this.read, this.#warnings, "warn")].sort((a, b) => (a.line ?? 0) - (b.line ?? 0));
  });
  faultCount = $derived(this.notes.filter((note) => note.tone === "bad").length);

  constructor(text: string) {
    this.set(text);
  }

  static kept = () => sessionStorage.getItem(KEPT);

  set(text: string) {
    this.text = text;
    sessionStorage.setItem(KEPT, text);
    clearTimeout(this.#timer);
    this.isAsking = true;
    this.#timer = setTimeout(() => void this.ask(), REST_MS);
  }

  /** Asks what it would do; an answer to an older text is dropped. */
  ask = async () => {
    this.#ending?.abort();
    if (this.read.fault) {
      [this.plan, this.isAsking] = [null, false];
      return;
    }
    const ending = (this.#ending = new AbortController());
    this.isAsking = true;
    try {
      const plan = await post<Plan>("/plan", { experiment: this.read.value }, { signal: ending.signal });
      if (ending.signal.aborted) return;
      [this.plan, this.failure, this.#faults, this.#warnings] = [plan, null, plan.refused, plan.warnings];
    } catch (error) {
      if (ending.signal.aborted) return;
      this.#refused(error);
    }
    this.isAsking = false;
  };

  /** Faults go beside their lines, all else is said as it is. */
  #refused(error: unknown) {
    const faults = faultsOf(error);
    this.failure = faults.length > 0 ? null : failureOf(error);
    if (faults.length > 0) [this.#faults, this.#warnings, this.plan] = [faults, [], null];
  }

  /** Sends the text as it stands; the same text again is the same submission. */
  async submit(): Promise<Experiment> {
    if (this.#sent.text !== this.text) this.#sent = { text: this.text, key: newKey() };
    try {
      const made = await post<Experiment>("/experiments", this.text, { key: this.#sent.key });
      this.drop();
      return made;
    } catch (error) {
      this.#refused(error);
      throw error;
    }
  }

  /** Forgets what was written. */
  drop() {
    this.stop();
    sessionStorage.removeItem(KEPT);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#ending?.abort();
  }
}

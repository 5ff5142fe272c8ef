// Finer points for what a chart is zoomed into. Asks when the view rests, and drops answers that come too late.
import { ApiError, get, type Metrics } from "./api";
import { isSame, lineageOf, pathOf, waitMs, wanted, type Held, type Range, type View } from "./zoom";

/** A curve and where it begins on the axis of tokens. */
export type Subject = { whole: Metrics; start: number };

type Question = { whole: Metrics; range: Range; view: View };

export class Detail {
  /** Finer readings by branch. */
  held = $state.raw<Record<string, Held>>({});
  /** Why there are none, where asking failed. */
  problem = $state.raw("");
  #view: View | null = null;
  #moved = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #asking: AbortController | undefined;
  #askedAt = 0;

  constructor(private readonly pointsMax: number) {}

  /** Says what is in view. For an effect: it is called again when the view, a curve or an answer is new. */
  look(view: View | null, subjects: Subject[]) {
    if (!isSame(view, this.#view)) {
      this.stop();
      this.#view = view;
      this.#moved = true;
      this.problem = "";
      if (view === null) this.held = {};
    }
    if (view === null) return;
    const questions = subjects.flatMap(({ whole, start }): Question[] => {
      const range = wanted(whole, view, start, this.held[whole.branch_id]);
      return range ? [{ whole, range, view }] : [];
    });
    if (questions.length === 0 || this.#timer || this.#asking) return;
    this.#timer = setTimeout(() => void this.#ask(questions), waitMs(this.#moved, Date.now() - this.#askedAt));
  }

  /** Asks no more and waits for nothing. */
  stop() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#timer = this.#asking = undefined;
  }

  async #ask(questions: Question[]) {
    const asking = new AbortController();
    [this.#timer, this.#asking, this.#askedAt, this.#moved] = [undefined, asking, Date.now(), false];
    const read = async ({ whole, range, view }: Question): Promise<[string, Held]> => {
      const metrics = await get<Metrics>(pathOf(whole.branch_id, range, this.pointsMax), asking.signal);
      return [whole.branch_id, { view, range, lineage: lineageOf(whole), metrics }];
    };
    try {
      const answers = await Promise.all(questions.map(read));
      if (asking.signal.aborted) return;
      this.#asking = undefined;
      this.problem = "";
      this.held = { ...this.held, ...Object.fromEntries(answers) };
    } catch (error) {
      if (asking.signal.aborted) return;
      this.#asking = undefined;
      this.problem = error instanceof ApiError ? error.message : String(error);
    }
  }
}

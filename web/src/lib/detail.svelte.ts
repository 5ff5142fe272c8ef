// Finer points for what a chart is zoomed into. Asks when the view rests, and drops answers that come too late.
import { failureOf, get, type Metrics } from "./api";
import type { Origin } from "./axes";
import { sayFailure, t } from "./session.svelte";
import { gathered, isSame, lineageOf, pathOf, pathOfAll, waitMs, wanted, type Held, type Range, type View } from "./zoom";

/** A curve, where it begins, and the experiment whose branches may be asked for together. */
export type Subject = { whole: Metrics; origin: Origin; experiment?: string | undefined };

type Question = { whole: Metrics; range: Range; view: View; experiment: string | undefined };

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

  /** `key` is the metric. */
  constructor(private readonly pointsMax: () => number, private readonly key: () => string) {}

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
    const questions = subjects.flatMap(({ whole, origin, experiment }): Question[] => {
      const range = wanted(whole, view, origin, this.held[whole.branch_id]);
      return range ? [{ whole, range, view, experiment }] : [];
    });
    if (questions.length === 0 || this.#timer || this.#asking) return;
    this.#timer = setTimeout(() => void this.#ask(questions, subjects.length), waitMs(this.#moved, Date.now() - this.#askedAt));
  }

  /** Asks no more and waits for nothing. */
  stop() {
    clearTimeout(this.#timer);
    this.#asking?.abort();
    this.#timer = this.#asking = undefined;
  }

  async #ask(questions: Question[], branches: number) {
    const asking = new AbortController();
    [this.#timer, this.#asking, this.#askedAt, this.#moved] = [undefined, asking, Date.now(), false];
    const held = ({ whole, range, view }: Question, metrics: Metrics): [string, Held] => [whole.branch_id, { view, range, lineage: lineageOf(whole), metrics }];
    const one = async (question: Question) => [held(question, await get<Metrics>(pathOf(question.whole.branch_id, question.range, this.key(), this.pointsMax()), asking.signal))];
    const many = async (group: Question[]) => {
      const [first] = group;
      if (!first?.experiment) return (await Promise.all(group.map(one))).flat();
      const all = await get<Metrics[]>(pathOfAll(first.experiment, first.range, this.key(), this.pointsMax()), asking.signal);
      return group.flatMap((question) => all.filter((metrics) => metrics.branch_id === question.whole.branch_id).map((metrics) => held(question, metrics)));
    };
    try {
      const { together, alone } = gathered(questions, branches);
      const answers = (await Promise.all([...together.map(many), ...alone.map(one)])).flat();
      if (asking.signal.aborted) return;
      this.#asking = undefined;
      this.problem = "";
      this.held = { ...this.held, ...Object.fromEntries(answers) };
    } catch (error) {
      if (asking.signal.aborted) return;
      this.#asking = undefined;
      this.problem = sayFailure(failureOf(error)) ?? t("noAnswer");
    }
  }
}

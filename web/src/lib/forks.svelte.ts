// Tokens of the checkpoints that forks begin with: read once each, they do not change.
import { get, type Branch, type Checkpoint } from "./api";
import { forksOf } from "./axes";

let known = $state.raw<Record<string, number>>({});
const asked = new Set<string>();

export const forks = {
  get tokens() { return known; },
  /** Reads those that are not known; a fork lies where its parent ends until they are. */
  async read(branches: Branch[]) {
    const missing = forksOf(branches).filter((id) => !asked.has(id));
    missing.forEach((id) => asked.add(id));
    await Promise.all(missing.map(async (id) => {
      try {
        const { meta } = await get<Checkpoint>(`/checkpoints/${id}`);
        known = { ...known, [id]: meta.tokens };
      } catch {
        // A checkpoint that is gone says nothing; its fork stays where it is.
      }
    }));
  },
};

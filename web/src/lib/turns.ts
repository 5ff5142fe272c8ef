// Drawing that can wait its turn: one at a time, each once a frame, so that what is under the hand stays smooth.

const waiting = new Map<object, () => void>();
let frame = 0;

function next() {
  frame = 0;
  const [first] = waiting;
  if (!first) return;
  waiting.delete(first[0]);
  first[1]();
  if (waiting.size > 0) frame = requestAnimationFrame(next);
}

/** Draws in one of the next frames; only the newest of each who asks. */
export function inTurn(who: object, draw: () => void) {
  waiting.set(who, draw);
  if (frame === 0) frame = requestAnimationFrame(next);
}

/** Who draws at once, or no more, waits for nothing. */
export function outOfTurn(who: object) {
  waiting.delete(who);
}

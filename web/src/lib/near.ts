// Tells once when an element comes near what is seen of the page.

/** Pixels below the edge from which on a thing is made ready. */
const AHEAD = "300px";

export function near(element: HTMLElement, come: () => void) {
  const watch = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watch.disconnect();
    come();
  }, { rootMargin: AHEAD });
  watch.observe(element);
  return { destroy: () => watch.disconnect() };
}

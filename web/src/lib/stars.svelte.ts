// Experiments that somebody keeps an eye on: kept in the browser, one set for a dashboard.
import { base } from "./base";

const KEY = `senmon.stars${base}`;
/** More are not kept; the oldest go. */
const MOST = 500;

function stored(): string[] {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter((id) => typeof id === "string") : [];
  } catch {
    return [];
  }
}

const kept = $state({ ids: stored() });
// What is starred in one tab is starred in all.
window.addEventListener("storage", ({ key }) => {
  if (key === KEY) kept.ids = stored();
});

export const isStarred = (id: string): boolean => kept.ids.includes(id);

export function toggleStar(id: string) {
  const before = stored();
  kept.ids = before.includes(id) ? before.filter((other) => other !== id) : [...before, id].slice(-MOST);
  localStorage.setItem(KEY, JSON.stringify(kept.ids));
}

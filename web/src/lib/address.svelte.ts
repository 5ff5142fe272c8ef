// The address is the view: what page, what of it, and how; a link to it shows the same to somebody else.
import { tick } from "svelte";
import { base, below } from "./base";

/** `path` begins below the base, without a slash. */
export const place = $state({ path: below(location.pathname), search: location.search, hash: location.hash });

// The browser restores a place that the page is not long enough for yet; this does it when it is.
history.scrollRestoration = "manual";
/** Milliseconds within which a page that is gone back to is as long as it was. */
const GROWS_MS = 3000;

const keyOf = () => String((history.state as { key?: number } | null)?.key ?? 0);
const scrollOf = (key: string) => `senmon.scroll.${base}${key}`;
const remember = () => sessionStorage.setItem(scrollOf(keyOf()), String(Math.round(scrollY)));

function arrive() {
  [place.path, place.search, place.hash] = [below(location.pathname), location.search, location.hash];
}

/** To another page, or another view of this one. Without `keep` it begins at its top. */
export function go(address: string, { keep = false, replace = false } = {}) {
  remember();
  if (replace) history.replaceState(history.state, "", address);
  else history.pushState({ key: Date.now() }, "", address);
  const isSamePage = place.path === below(location.pathname);
  arrive();
  if (!keep && !isSamePage) void tick().then(() => scrollTo(0, 0));
  else if (place.hash) void tick().then(toHash);
}

/** The id that a hash names. */
export function idOf(hash: string): string {
  try {
    return decodeURIComponent(hash.slice(1));
  } catch {
    return hash.slice(1);
  }
}

/** To the place of the page that the address names; false where there is none (yet). */
export function toHash(): boolean {
  const found = document.getElementById(idOf(place.hash));
  found?.scrollIntoView();
  return found !== null;
}

function restore() {
  const wanted = Number(sessionStorage.getItem(scrollOf(keyOf())) ?? 0);
  const begun = Date.now();
  const look = () => {
    const most = document.documentElement.scrollHeight - innerHeight;
    scrollTo(0, Math.min(wanted, most));
    if (most < wanted && Date.now() - begun < GROWS_MS) setTimeout(look, 50);
  };
  void tick().then(look);
}

window.addEventListener("popstate", () => {
  arrive();
  restore();
});
// The place of the page that is left is remembered while it is still shown.
window.addEventListener("scroll", () => remember(), { passive: true });
window.addEventListener("pagehide", remember);
if (performance.getEntriesByType("navigation").some((entry) => (entry as PerformanceNavigationTiming).type !== "navigate")) restore();

/** A part of the view. */
export const param = (name: string, otherwise = "") => new URLSearchParams(place.search).get(name) ?? otherwise;

/** Writes parts of the view; null or an empty text is the usual and stands not in the address. */
export function setParams(values: Record<string, string | null>, { step = false } = {}) {
  const params = new URLSearchParams(place.search);
  for (const [name, value] of Object.entries(values)) {
    if (value) params.set(name, value);
    else params.delete(name);
  }
  const search = params.toString();
  go(`${place.path}${search && `?${search}`}`, { keep: true, replace: !step });
}

/** Links inside the dashboard stay inside. */
export function follow(event: MouseEvent) {
  const link = (event.target as Element).closest("a");
  if (!link || link.origin !== location.origin || link.target || event.button !== 0) return;
  if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || link.hasAttribute("download")) return;
  if (link.pathname.startsWith(`${base}api/`)) return;
  event.preventDefault();
  // A place of this page; its address would go from the base.
  if (link.getAttribute("href")?.startsWith("#")) return document.querySelector<HTMLElement>(link.hash)?.focus();
  go(link.pathname + link.search + link.hash, { keep: link.dataset.keep !== undefined });
}

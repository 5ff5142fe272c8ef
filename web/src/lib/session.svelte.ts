// What every page shares: language, theme, place, who I am.

import { messages, type Key } from "./messages";

const stored = (key: string) => localStorage.getItem(`senmon.${key}`);
const keep = (key: string, value: string) => localStorage.setItem(`senmon.${key}`, value);

// The page may lie below a path of a proxy; links and requests go from its base.
const base = new URL(document.baseURI).pathname;
function place(): string {
  return location.pathname.startsWith(base) ? location.pathname.slice(base.length) : location.pathname;
}

export const ui = $state({
  japanese: (stored("language") ?? navigator.language).startsWith("ja"),
  theme: stored("theme") ?? "system",
  path: place(),
  now: Date.now(),
});

setInterval(() => (ui.now = Date.now()), 1000);
window.addEventListener("popstate", () => (ui.path = place()));

/** A sentence; `{name}` in it gives way to a value. */
export const t = (key: Key, values: Record<string, string | number> = {}): string =>
  messages[key][ui.japanese ? 1 : 0].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));

export function go(path: string) {
  history.pushState(null, "", path);
  ui.path = place();
}

/** Links inside the dashboard stay inside. */
export function follow(event: MouseEvent) {
  const link = (event.target as Element).closest("a");
  if (!link || link.origin !== location.origin || event.metaKey || event.ctrlKey || link.hasAttribute("download")) return;
  if (link.pathname.startsWith(`${base}api/`)) return;
  event.preventDefault();
  go(link.pathname + link.search);
}

export function setLanguage(japanese: boolean) {
  ui.japanese = japanese;
  keep("language", japanese ? "ja" : "en");
  document.documentElement.lang = japanese ? "ja" : "en";
}

export function setTheme(theme: string) {
  ui.theme = theme;
  keep("theme", theme);
  applyTheme();
}

export function applyTheme() {
  if (ui.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = ui.theme;
}

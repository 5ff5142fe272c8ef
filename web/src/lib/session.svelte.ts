// What every page shares: language, theme, the time, who is signed in and what they may do.
import type { Failure, Said, Session } from "./api";
import { base } from "./base";
import { ago } from "./format";
import { link } from "./hub.svelte";
import { messages, type Key } from "./messages";
import { refusal, retold, titled, worded, type Lang } from "./said";

const stored = (key: string) => localStorage.getItem(`senmon.${key}`);
const keep = (key: string, value: string) => localStorage.setItem(`senmon.${key}`, value);
const isJapanese = () => (stored("language") ?? navigator.language).startsWith("ja");

export const ui = $state({
  japanese: isJapanese(),
  theme: stored("theme") ?? "system",
  /** Undefined until the server said it, null where nobody is signed in. */
  session: undefined as Session | null | undefined,
  get now() {
    return link.now;
  },
});

/** What the server would let this session do; it decides, this only spares people a refusal. */
export const may = {
  /** Change something of this owner. */
  change: (owner: string | undefined) => ui.session?.role === "admin" || (ui.session?.role === "user" && owner === ui.session.name),
  /** Make something of one's own. */
  submit: () => ui.session?.role === "admin" || ui.session?.role === "user",
  manage: () => ui.session?.role === "admin",
};

/** A sentence; `{name}` in it gives way to a value. */
export const t = (key: Key, values: Record<string, string | number> = {}): string =>
  messages[key][ui.japanese ? 1 : 0].replace(/\{(\w+)\}/g, (whole, name: string) => String(values[name] ?? whole));

const lang = (): Lang => (ui.japanese ? "ja" : "en");

/** What the server says, in words; `text` is what it came with. */
export const say = (said: Said | null | undefined, text: string | null | undefined): string => worded(said, text ?? "", lang());

/** What a refusal says, in words; null where the server did not answer. */
export const sayFailure = (failure: Failure): string | null => refusal(failure, lang());

/** An answer with what it says in words. */
export const tell = <T>(answer: T): T => retold(answer, lang());

/** The title of a job, in words. */
export const title = (of: string): string => titled(of, lang());

/** A word of the server's, if there is one for people; else as it came. */
export function word(kind: string, value: string): string {
  const known = (key: string): key is Key => key in messages;
  const [own, n] = [`${kind}_${value}`, /\d+$/.exec(value)?.[0]];
  // One of many: domain 3.
  const numbered = own.replace(/\d+$/, "N");
  if (n !== undefined && known(numbered)) return t(numbered, { n });
  return known(own) ? t(own) : value;
}

/** How long ago a moment was: 3 min ago. */
export function since(iso: string): string {
  const { count, unit } = ago(iso, ui.now);
  return t(`ago_${unit}`, { count });
}

/** The moment as a clock shows it. */
export const clock = (ms: number) => new Date(ms).toLocaleTimeString(ui.japanese ? "ja-JP" : "en-GB");
/** The moment in full, for hovering. */
export const moment = (iso: string) => new Date(iso).toLocaleString(ui.japanese ? "ja-JP" : "en-GB", { timeZoneName: "short" });

export function setLanguage(japanese: boolean) {
  keep("language", japanese ? "ja" : "en");
  applyLanguage();
}

export function applyLanguage() {
  ui.japanese = isJapanese();
  document.documentElement.lang = ui.japanese ? "ja" : "en";
}

export function setTheme(theme: string) {
  keep("theme", theme);
  applyTheme();
}

export function applyTheme() {
  ui.theme = stored("theme") ?? "system";
  if (ui.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = ui.theme;
}

/** Language and theme are those of the browser; a session is that of one dashboard. */
const SIGNED_IN = `signed-in${base}`;

/** Tells the other tabs that somebody signed in. */
export const tellSignedIn = () => keep(SIGNED_IN, String(Date.now()));

/** Other tabs follow what was chosen in one. */
export function followOtherTabs(signedIn: () => void) {
  window.addEventListener("storage", ({ key }) => {
    if (key === "senmon.language") applyLanguage();
    if (key === "senmon.theme") applyTheme();
    if (key === `senmon.${SIGNED_IN}`) signedIn();
  });
}

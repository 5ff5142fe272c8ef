// What every part of the end-to-end test stands on: one Chromium, a fresh profile for each part, a gate between browser
// and server that can be closed, and the count of what passed.
import { existsSync } from "node:fs";
import net from "node:net";
import { chromium } from "playwright-core";

const { SENMON_URL: server, SENMON_TOKEN: token, SENMON_SHOTS: shots } = process.env;
const program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!program) throw new Error("no Chromium found: scripts/setup-chromium installs it");
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
export const browser = await chromium.launch({ executablePath: program, headless: true, args: quiet });

/** How long anything may take on a machine that is busy with other tests; nothing here is a measurement. */
const PATIENCE_MS = 180_000;

/** What went wrong in any page, besides what a test wants to go wrong. */
export const errors = [];
export const counts = { passed: 0, failed: 0 };

export async function check(name, run) {
  try {
    await run();
    counts.passed += 1;
    console.log(`ok ${name}`);
  } catch (error) {
    counts.failed += 1;
    console.log(`not ok ${name}: ${error.message}`);
    await lookBack(`failed-${counts.failed}`);
  }
}
export function must(condition, why) {
  if (!condition) throw new Error(why);
}
/** What every open page showed when something failed. */
async function lookBack(name) {
  const pages = browser.contexts().flatMap((context) => context.pages());
  for (const [i, page] of pages.entries()) await shot(page, `${name}-${i}`)?.catch(() => undefined);
}
export const shot = (page, name) => (shots ? page.screenshot({ path: `${shots}/${name}.png` }) : undefined);

/** Messages of the console that the browser itself writes when a request is refused or not answered. */
const isExpected = (text, allowed) => [/\b401\b/, ...allowed].some((pattern) => pattern.test(text));

/** A profile of its own, signed in by a token. `allowed` are the console's messages that the part expects. */
export async function profile({ url = server, secret = token, allowed = [], ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  context.on("page", (page) => {
    page.on("pageerror", (error) => errors.push(`${page.url()}: ${error}`));
    page.on("console", (message) => message.type() === "error" && !isExpected(message.text(), allowed) && errors.push(`${page.url()}: ${message.text()}`));
  });
  if (secret) {
    const answer = await context.request.post(`${url}/api/v1/session`, { data: { token: secret }, headers: { "X-Senmon": "1" } });
    must(answer.ok(), `sign-in was answered ${answer.status()}`);
  }
  return context;
}

/** The API, by the admin's token. */
export async function api(method, path, body) {
  const answer = await fetch(`${server}/api/v1${path}`, {
    method,
    headers: { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined,
  });
  const text = await answer.text();
  must(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
  return text ? JSON.parse(text) : undefined;
}

/** A gate to the server: closed, it refuses and cuts, as a server does that is started again. */
export async function gate() {
  const { hostname, port } = new URL(server);
  const open = new Set();
  let listener;
  const start = (at) =>
    new Promise((done) => {
      listener = net.createServer((client) => {
        const upstream = net.connect(Number(port), hostname);
        for (const socket of [client, upstream]) {
          open.add(socket);
          socket.on("error", () => undefined);
          socket.on("close", () => (open.delete(socket), client.destroy(), upstream.destroy()));
        }
        client.pipe(upstream).pipe(client);
      });
      listener.listen(at, "127.0.0.1", () => done(listener.address().port));
    });
  const at = await start(0);
  return {
    url: `http://127.0.0.1:${at}`,
    streams: () => open.size / 2,
    close: () => new Promise((done) => (listener.close(done), open.forEach((socket) => socket.destroy()))),
    open: () => start(at),
  };
}

/** Waits until something is true. */
export async function until(what, is, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  for (;;) {
    if (await is()) return;
    must(Date.now() < end, `not within ${ms} ms: ${what}`);
    await new Promise((go) => setTimeout(go, 200));
  }
}

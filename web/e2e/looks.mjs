// How every page looks to everybody: axe in both themes, a phone, both languages, no jumps while it loads.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { api, check, must, profile, shot } from "./harness.mjs";

const { SENMON_URL: url } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** Layout shift above which a page is said to jump. */
const SHIFT_MAX = 0.1;

/** Opens a page, waits until nothing of it is being read, and tells by how much it jumped. */
async function open(page, path) {
  await page.addInitScript(() => {
    window.shift = 0;
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value; }).observe({ type: "layout-shift", buffered: true });
  });
  await page.goto(`${url}${path}`);
  await page.locator("main h1").first().waitFor();
  await page.waitForLoadState("load");
  await page.waitForFunction(() => !document.querySelector("[data-state=loading]"));
  await page.waitForTimeout(300);
}

async function faults(page) {
  // By the debugger, which the page's content security policy does not bind.
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
    return violations.map(({ id, nodes }) => `${id} (${nodes.length}): ${nodes[0].html.slice(0, 120)} ${nodes[0].failureSummary?.split("\n")[1] ?? ""}`);
  });
}

export async function looks(id) {
  const { branches } = await api("GET", `/experiments/${id}`);
  const branch = branches.find((found) => found.role === "expert").id;
  const tabs = ["", "/branches", "/domains?domain=0", "/report", "/events", "/file"].map((tab) => `/experiments/${id}${tab}`);
  const paths = ["/experiments", ...tabs, `/branches/${branch}`, "/workers", "/checkpoints", "/queue", "/events", "/tokens", "/audit", "/login", "/nope"];
  const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

  for (const [name, options] of [["light", { colorScheme: "light" }], ["dark", { colorScheme: "dark" }], ["phone", { ...phone, colorScheme: "dark" }]]) {
    await check(`axe finds nothing on any page (${name})`, async () => {
      const found = [];
      const context = await profile({ ...options, allowed: [/\b404\b/] });
      const page = await context.newPage();
      for (const path of paths) {
        await open(page, path);
        found.push(...(await faults(page)).map((fault) => `${path} ${fault}`));
      }
      await context.close();
      const stranger = await profile({ ...options, secret: null });
      const door = await stranger.newPage();
      await door.goto(url);
      await door.getByLabel("token").waitFor();
      found.push(...(await faults(door)).map((fault) => `sign-in ${fault}`));
      await stranger.close();
      must(found.length === 0, found.join("\n"));
    });
  }
  await check("no page jumps while it loads", async () => {
    const jumps = [];
    for (const options of [{}, phone]) {
      const context = await profile({ ...options, allowed: [/\b404\b/] });
      for (const path of paths) {
        const page = await context.newPage();
        await open(page, path);
        const shift = await page.evaluate(() => window.shift);
        if (shift >= SHIFT_MAX) jumps.push(`${path} ${options.isMobile ? "(phone) " : ""}${shift.toFixed(3)}`);
        await page.close();
      }
      await context.close();
    }
    must(jumps.length === 0, jumps.join("; "));
  });
  await check("on a phone nothing is wider than the page, and the rail is a menu", async () => {
    const wide = [];
    const context = await profile({ ...phone, locale: "ja-JP", allowed: [/\b404\b/] });
    const page = await context.newPage();
    for (const path of paths) {
      await open(page, path);
      const found = await page.evaluate(() => {
        const over = [...document.querySelectorAll("main table, main p, main section")].filter((part) => part.getBoundingClientRect().right > innerWidth + 1);
        return [document.documentElement.scrollWidth > innerWidth + 1 ? "the page" : "", ...over.map((part) => part.outerHTML.slice(0, 60))].filter(Boolean);
      });
      wide.push(...found.map((part) => `${path}: ${part}`));
      await shot(page, `phone${path.split("?")[0].replaceAll("/", "-").replace(id, "experiment").replace(branch, "branch")}`);
    }
    must(wide.length === 0, wide.join("\n"));
    await page.goto(`${url}/experiments`);
    must(!(await page.locator("#rail").isVisible()), "the rail is open");
    await page.locator("nav .menu").click();
    await page.locator("#rail a[href='queue']").click();
    await page.waitForURL("**/queue");
    must((await page.locator("#rail a[aria-current=page]").getAttribute("href")) === "queue", "the menu does not say where one is");
    await context.close();
  });
  await check("no English sentence is left on a Japanese page's frame", async () => {
    const context = await profile({ locale: "ja-JP" });
    const page = await context.newPage();
    await open(page, "/experiments");
    must((await page.evaluate(() => document.documentElement.lang)) === "ja", "the page does not say its language");
    const text = await page.locator("nav, main thead, main .tools").allInnerTexts();
    must(!/Experiments|Workers|Search|State|completed/.test(text.join(" ")), text.join(" "));
    await context.close();
  });
}

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

/** What reaches beyond the right edge of its page. */
const wider = (page) =>
  page.evaluate(() => {
    const over = [...document.querySelectorAll("main table, main p, main section")].filter((part) => part.getBoundingClientRect().right > innerWidth + 1 && (innerWidth <= 720 || !part.closest(".scroll")));
    return [document.documentElement.scrollWidth > innerWidth + 1 ? "the page" : "", ...over.map((part) => part.outerHTML.slice(0, 60))].filter(Boolean);
  });

/** The pages that the rail leads to: a new one is looked at without being named here. */
async function pagesOfRail() {
  const context = await profile();
  const page = await context.newPage();
  await page.goto(`${url}/experiments`);
  await page.locator("#rail a").first().waitFor();
  const pages = await page.locator("#rail a").evaluateAll((links) => links.map((link) => `/${link.getAttribute("href")}`));
  await context.close();
  must(pages.includes("/alerts") && pages.length >= 8, pages.join());
  return pages;
}

export async function looks(id) {
  const { branches } = await api("GET", `/experiments/${id}`);
  const branch = branches.find((found) => found.role === "expert").id;
  const [{ id: worker }] = (await api("GET", "/workers")).items;
  const tabs = ["", "/metrics", "/branches", "/domains", "/domains/0", "/report", "/events", "/file"].map((tab) => `/experiments/${id}${tab}`);
  // A row to look at; its address is nobody's, and nothing is called.
  await api("POST", "/alerts", { name: "looks", on: ["failed"], target: { kind: "slack", url: "http://localhost:9/hook" } });
  const paths = [...(await pagesOfRail()), "/experiments/new", "/docs/how-to/fleet", "/docs/reference/experiment-file", "/docs?q=bucket", "/api#post_branches_id_fork", `/workers/${worker}`, ...tabs, `/branches/${branch}`, "/login", `/compare?experiments=${id}&branches=${branch}`, "/nope"];
  const looks = {
    light: { colorScheme: "light" },
    dark: { colorScheme: "dark" },
    phone: { colorScheme: "dark", locale: "ja-JP", viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true },
  };
  const found = { axe: [], jumps: [], wide: [] };

  for (const [look, options] of Object.entries(looks)) {
    await check(`every page opens (${look})`, async () => {
      const context = await profile({ ...options, allowed: [/\b404\b/] });
      for (const path of paths) {
        const page = await context.newPage();
        await open(page, path);
        const shift = await page.evaluate(() => window.shift);
        if (shift >= SHIFT_MAX) found.jumps.push(`${path} (${look}) ${shift.toFixed(3)}`);
        found.wide.push(...(await wider(page)).map((part) => `${path} (${look}) ${part}`));
        found.axe.push(...(await faults(page)).map((fault) => `${path} (${look}) ${fault}`));
        await shot(page, `${look}${path.split(/[?#]/)[0].replaceAll("/", "-").replace(worker, "worker").replace(id, "experiment").replace(branch, "branch")}`);
        await page.close();
      }
      await context.close();
      const stranger = await profile({ ...options, secret: null });
      const door = await stranger.newPage();
      await door.goto(url);
      await door.getByLabel(/token|トークン/i).waitFor();
      found.axe.push(...(await faults(door)).map((fault) => `sign-in (${look}) ${fault}`));
      await stranger.close();
    });
  }
  await check("axe finds nothing on any page, in both themes and on a phone", () => must(found.axe.length === 0, found.axe.join("\n")));
  await check("no page jumps while it loads", () => must(found.jumps.length === 0, found.jumps.join("; ")));
  await check("nothing is wider than its page", () => must(found.wide.length === 0, found.wide.join("\n")));
  await check("on a phone the rail is a menu that says where one is", async () => {
    const context = await profile(looks.phone);
    const page = await context.newPage();
    await page.goto(`${url}/experiments`);
    await page.locator("nav .menu").waitFor();
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

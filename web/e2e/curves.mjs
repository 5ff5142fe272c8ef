// The curves of a finished experiment: axes, groups, the reference, panels and their common moment, fingers and keys,
// what can be taken away, comparing.
import { readFileSync } from "node:fs";
import { api, check, must, profile, shot, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;
const searchOf = (page) => new URL(page.url()).searchParams;
const zoomOf = (page) => searchOf(page).get("zoom")?.split("~").map(Number) ?? null;
const plotOf = (page) => page.locator(".chart .u-over").boundingBox();

export async function curves(id) {
  const context = await profile({ acceptDownloads: true });
  const page = await context.newPage();
  const { branches } = await api("GET", `/experiments/${id}`);
  const seed = branches.find((branch) => branch.role === "seed");
  const expert = branches.find((branch) => branch.role === "expert");

  await check("experts begin where the seed ended, and the hover tells the reference there", async () => {
    await page.goto(`${url}/experiments/${id}`);
    await page.locator(".chart canvas").waitFor();
    const plot = await plotOf(page);
    await page.mouse.move(plot.x + 5, plot.y + 80);
    const text = await page.locator(".chart .hover").innerText();
    const [tokens] = text.split("\n");
    must(Number(tokens.replace(/\D/g, "")) > seed.tokens_total, `at the left edge it says ${tokens}`);
    must(/dense/.test(text), text);
    must(!/Δ|[+−]\d/.test(text), `a difference of training losses: ${text}`);
    await page.mouse.move(plot.x + plot.width - 2, plot.y + 80);
    must(/dense/.test(await page.locator(".chart .hover").innerText()), "at the right edge the reference is left out");
    await page.getByRole("button", { name: "Own tokens" }).click();
    await until("the axis is in the address", () => searchOf(page).get("x") === "tokens");
    await page.getByRole("button", { name: "Lineage" }).click();
    await until("the usual axis stands not in it", () => !searchOf(page).has("x"));
  });
  await check("groups are one curve each, and smoothing has a figure", async () => {
    const drawn = () => page.locator(".chart").getAttribute("data-drawn").then(Number);
    const before = await drawn();
    await page.getByRole("button", { name: "Experts", exact: true }).click();
    await until("experts are one curve", async () => (await drawn()) < before);
    await page.getByLabel("Smoothing").focus();
    await page.keyboard.press("Home");
    await until("it is off", () => searchOf(page).get("smooth") === "0");
    await page.goto(`${url}/experiments/${id}?smooth=12345`);
    await page.getByText("12.3\u2009K tokens").waitFor();
  });
  await check("every recorded metric has a panel; it is found by name, and pinned", async () => {
    await page.goto(`${url}/experiments/${id}/metrics`);
    await page.locator("[data-metric='train/loss'] canvas").waitFor();
    for (const name of ["Gradient norm", "Learning rate", "Throughput (tokens per second)", "Memory of the worker's process", "Time waiting for data"]) must((await page.locator("section h3", { hasText: name }).count()) === 1, `no panel ${name}`);
    await page.getByPlaceholder("Search").fill("gradient");
    await until("one is left", async () => (await page.locator(".panels section").count()) === 1);
    await page.getByRole("button", { name: "Pin", exact: true }).click();
    await page.getByPlaceholder("Search").fill("");
    await until("it is pinned in the address", () => searchOf(page).get("pin") === "train/grad_norm");
    must((await page.locator(".panels h3").first().innerText()) === "Gradient norm", "it is not the first");
    await shot(page, "panels");
  });
  await check("all panels show the same moment", async () => {
    await page.locator("[data-metric='train/loss'] canvas").waitFor();
    const plot = await page.locator("[data-metric='train/grad_norm'] .u-over").boundingBox();
    await page.mouse.move(plot.x + plot.width / 2, plot.y + 60);
    const heads = await page.locator(".hover .head span:first-child").allInnerTexts();
    must(heads.length >= 2 && new Set(heads).size === 1, heads.join(" | "));
  });
  await check("a shift-drag pans, keys zoom and pan, the way back leads back", async () => {
    await page.goto(`${url}/experiments/${id}`);
    await page.locator(".chart canvas").waitFor();
    await page.locator(".chart [role=application]").focus();
    await page.keyboard.press("+");
    await until("keys zoom", () => zoomOf(page) !== null);
    const [from, to] = zoomOf(page);
    const plot = await plotOf(page);
    await page.keyboard.down("Shift");
    await page.mouse.move(plot.x + 300, plot.y + 60);
    await page.mouse.down();
    await page.mouse.move(plot.x + 200, plot.y + 60, { steps: 5 });
    await page.mouse.up();
    await page.keyboard.up("Shift");
    await until("it panned", () => zoomOf(page)?.[0] > from);
    const panned = zoomOf(page);
    must(Math.abs(panned[1] - panned[0] - (to - from)) < (to - from) / 1000, "the width changed");
    await page.goBack();
    await until("the view before is back", () => zoomOf(page)?.[0] === from);
    await page.locator(".chart [role=application]").focus();
    await page.keyboard.press("0");
    await until("0 shows all", () => zoomOf(page) === null);
  });
  await check("a chart can be taken away as CSV, JSON and a picture, and read as a table", async () => {
    const save = async (name) => {
      const [download] = await Promise.all([page.waitForEvent("download"), page.locator(".exports").first().getByRole("button", { name }).click()]);
      return readFileSync(await download.path());
    };
    const csv = String(await save("CSV"));
    must(csv.startsWith("branch,step,tokens,tokens_lineage,time,train/loss"), csv.slice(0, 80));
    must(csv.includes(`\n${expert.name},`), "the expert is not in it");
    const json = JSON.parse(String(await save("JSON")));
    must(json.curves.find((curve) => curve.branch === expert.name).tokens_before === seed.tokens_total, "it does not say where the expert begins");
    must((await save("PNG")).subarray(1, 4).toString() === "PNG", "no picture");
    await page.getByText("As a table").first().click();
    await page.locator("table caption").first().waitFor();
    must((await page.locator("details tbody th", { hasText: "dense" }).count()) === 1, "dense is not in the table");
  });
  await check("two experiments stand beside each other, and a link shows the same", async () => {
    const all = (await api("GET", "/experiments")).items.filter((row) => row.id !== id);
    must(all.length > 0, "there is but one experiment");
    await page.goto(`${url}/compare?experiments=${id},${all[0].id}`);
    await page.locator(".chart canvas").waitFor();
    await page.getByRole("heading", { name: "Files" }).waitFor();
    must((await page.title()).startsWith("Compare: "), await page.title());
    await shot(page, "compare");
    await page.goto(`${url}/compare?branches=${expert.id}`);
    await page.getByLabel("Add a branch").selectOption(seed.id);
    await until("the branch is in the address", () => searchOf(page).get("branches") === `${expert.id},${seed.id}`);
    await until("both are drawn", async () => (await page.locator(".legend").count()) === 2);
  });
  await context.close();

  await check("one finger pans, two zoom, and the page still scrolls", async () => {
    const phone = await profile({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
    const tab = await phone.newPage();
    await tab.goto(`${url}/experiments/${id}?zoom=${seed.tokens_total}~${seed.tokens_total * 1.2}`);
    await tab.locator(".chart canvas").waitFor();
    await tab.locator(".chart").scrollIntoViewIfNeeded();
    const plot = await plotOf(tab);
    const cdp = await phone.newCDPSession(tab);
    const touch = (type, ...xs) => cdp.send("Input.dispatchTouchEvent", { type, touchPoints: xs.map((x, id) => ({ x: plot.x + x, y: plot.y + 100, id })) });
    const [from, to] = zoomOf(tab);
    await touch("touchStart", 200);
    for (const x of [180, 150, 120]) await touch("touchMove", x);
    await touch("touchEnd");
    await until("it panned", () => zoomOf(tab)?.[0] > from);
    const panned = zoomOf(tab);
    await touch("touchStart", 120, 180);
    for (const by of [10, 30, 50]) await touch("touchMove", 120 - by, 180 + by);
    await touch("touchEnd");
    await until("it zoomed", () => zoomOf(tab)?.[1] - zoomOf(tab)?.[0] < (to - from) / 2);
    must(zoomOf(tab)[0] > panned[0], "it zoomed elsewhere");
    const before = await tab.evaluate(() => scrollY);
    const up = (type, y) => cdp.send("Input.dispatchTouchEvent", { type, touchPoints: y === null ? [] : [{ x: plot.x + 150, y: plot.y + y }] });
    await up("touchStart", 200);
    for (const y of [170, 120, 60, 0]) await up("touchMove", y);
    await up("touchEnd", null);
    await until("the page scrolled", async () => (await tab.evaluate(() => scrollY)) > before, 5000);
    await phone.close();
  });
}

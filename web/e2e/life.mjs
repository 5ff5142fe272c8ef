// An experiment's life on the page: sign-in, a live curve that grows and is zoomed into, the store, domains, report.
import { check, must, profile, shot } from "./harness.mjs";

const { SENMON_URL: url, SENMON_TOKEN: token } = process.env;

export async function life(id) {
  const context = await profile({ secret: null });
  const page = await context.newPage();
  await check("signs in with a token, and goes on to where one wanted to be", async () => {
    await page.goto(`${url}/experiments/${id}`);
    await page.getByLabel("token").fill(token);
    await page.locator("button[type=submit]").click();
    await page.locator("nav .brand").waitFor();
    must(new URL(page.url()).pathname === `/experiments/${id}`, page.url());
  });
  await check("the live curve grows", async () => {
    const drawn = async () => Number(await page.locator(".chart").getAttribute("data-points"));
    await page.waitForFunction(() => Number(document.querySelector(".chart")?.dataset.points) > 0);
    await page.locator(".chart canvas").waitFor();
    const before = await drawn();
    await page.waitForFunction((n) => Number(document.querySelector(".chart")?.dataset.points) > n, before);
    await shot(page, "experiment");
  });
  await check("a drag zooms, new points leave the view where it is, a double click shows the whole curve again", async () => {
    const plot = await page.locator(".chart .u-over").boundingBox();
    const [y, at] = [plot.y + plot.height / 2, (share) => plot.x + plot.width * share];
    await page.mouse.move(at(0.2), y);
    await page.mouse.down();
    await page.mouse.move(at(0.4), y, { steps: 4 });
    await page.mouse.move(at(0.6), y, { steps: 4 });
    await page.mouse.up();
    const whole = page.getByRole("button", { name: "Whole curve" });
    await whole.waitFor();
    const before = Number(await page.locator(".chart").getAttribute("data-points"));
    await page.waitForFunction((n) => Number(document.querySelector(".chart")?.dataset.points) > n, before);
    must(await whole.isVisible(), "new points took the view back");
    await shot(page, "zoomed");
    await page.mouse.dblclick(at(0.5), y);
    await whole.waitFor({ state: "detached" });
  });
  await check("the store says what it holds", async () => {
    await page.goto(`${url}/checkpoints`);
    await page.locator(".storage .forecast").waitFor();
    const text = await page.locator(".storage").innerText();
    for (const part of ["Shards", "under way"]) must(text.includes(part), text);
    await shot(page, "checkpoints");
  });
  await check("a report's tab that is opened too early says what it waits for, and fills by itself", async () => {
    await page.goto(`${url}/experiments/${id}/report`);
    await page.locator(".headline").waitFor({ timeout: 240_000 });
    must((await page.locator(".headline").innerText()).includes("ensemble"), "the headline names no ensemble");
    must((await page.locator(".matrix td.own").count()) > 0, "no cell is outlined");
    await shot(page, "report");
  });
  await check("what happened is told in Japanese too, also what a worker and the report say", async () => {
    await page.evaluate(() => localStorage.setItem("senmon.language", "ja"));
    await page.goto(`${url}/events`);
    await page.getByText("seed の学習を開始しました。").first().waitFor();
    const text = await page.locator("table.events").innerText();
    must(!/ began\.| is done\./.test(text), text);
    await shot(page, "events-ja");
    await page.goto(`${url}/experiments/${id}/report`);
    await page.locator(".headline").waitFor();
    must((await page.locator(".headline").innerText()).includes("パープレキシティは"), "the headline is not told in Japanese");
    await page.evaluate(() => localStorage.setItem("senmon.language", "en"));
  });
  await check("a domain has a page: its words and texts, who trains on it, its curves, what the report says of it", async () => {
    await page.goto(`${url}/experiments/${id}/domains`);
    await page.locator("tbody td.wide a").first().click();
    await page.waitForURL("**/domains/0");
    await page.locator(".drawers a", { hasText: "expert-0" }).waitFor();
    await page.locator("[data-metric='train/loss'] canvas").waitFor();
    await page.locator("main tr.strong", { hasText: "expert-0" }).waitFor();
    await page.getByText("Silhouette").waitFor();
    await page.locator("main details").last().waitFor();
    await shot(page, "domain");
    await page.goto(`${url}/experiments/${id}/domains/99`);
    await page.getByText("There is no domain 99 here").waitFor();
    await page.goto(`${url}/experiments/${id}/report`);
    await page.locator(".matrix th a").first().click();
    await page.waitForURL("**/domains/0");
  });
  await context.close();
}

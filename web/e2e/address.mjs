// The address is the view: what is chosen stands in it, a link shows the same, the way back leads to what was before.
import { check, must, profile, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;
const searchOf = (page) => new URL(page.url()).searchParams;

export async function addresses(long, done) {
  const context = await profile();
  const page = await context.newPage();
  await check("the chart's view is in the address, and a link to it shows the same", async () => {
    await page.goto(`${url}/experiments/${done}`);
    await page.locator(".chart canvas").waitFor();
    await page.getByRole("button", { name: "Steps", exact: true }).click();
    await page.getByRole("button", { name: "Log", exact: true }).click();
    await page.getByRole("button", { name: "dense", exact: true }).click();
    const plot = await page.locator(".chart .u-over").boundingBox();
    await page.mouse.move(plot.x + 50, plot.y + 50);
    await page.mouse.down();
    await page.mouse.move(plot.x + 250, plot.y + 60, { steps: 4 });
    await page.mouse.up();
    await until("the zoom is in the address", () => searchOf(page).has("zoom"));
    const search = searchOf(page);
    must(search.get("x") === "steps" && search.get("y") === "log" && search.get("hide") === "seed,dense", page.url());
    const other = await context.newPage();
    await other.goto(page.url());
    await other.getByRole("button", { name: "Whole curve" }).waitFor();
    must((await other.getByRole("button", { name: "dense", exact: true }).getAttribute("aria-pressed")) === "false", "dense is shown");
    await other.close();
    await page.goBack();
    await page.getByRole("button", { name: "Whole curve" }).waitFor({ state: "detached" });
    must(searchOf(page).get("x") === "steps", page.url());
  });
  await check("search, filter and order are in the address; / is the search, ? shows the keys", async () => {
    await page.goto(`${url}/experiments`);
    await page.locator("main tbody tr").nth(1).waitFor();
    await page.keyboard.press("/");
    await page.keyboard.type("overnight");
    await until("one row is left", async () => (await page.locator("main tbody tr").count()) === 1);
    must(searchOf(page).get("q") === "overnight", page.url());
    await page.reload();
    await until("the link shows the same", async () => (await page.locator("main tbody tr").count()) === 1);
    await page.goto(`${url}/experiments?state=cancelled&sort=name`);
    await page.getByText("Nothing fits this search.").waitFor();
    await page.locator("main").click();
    await page.keyboard.press("?");
    await page.getByRole("dialog", { name: "Keys" }).waitFor();
    await page.keyboard.press("Escape");
    await page.keyboard.press("g");
    await page.keyboard.press("w");
    await page.waitForURL("**/workers");
  });
  await check("titles name the page; the way back leads to the same place of the list", async () => {
    await page.goto(`${url}/experiments/${long}`);
    await until("the title names it", async () => (await page.title()).startsWith("long seed · "));
    await page.setViewportSize({ width: 1280, height: 300 });
    await page.goto(`${url}/experiments/${done}/events`);
    await page.locator("table.events tr").nth(20).waitFor();
    await page.evaluate(() => scrollTo(0, 400));
    await page.waitForTimeout(200);
    await page.keyboard.press("g");
    await page.keyboard.press("w");
    await page.waitForURL("**/workers");
    await until("a new page begins at its top", async () => (await page.evaluate(() => scrollY)) === 0);
    await page.goBack();
    await until("the place is kept", async () => Math.abs((await page.evaluate(() => scrollY)) - 400) < 5);
    await page.setViewportSize({ width: 1280, height: 900 });
  });
  await context.close();
}

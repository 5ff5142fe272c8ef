// The dashboard in real Chromium against a real server: sign-in, a live curve that grows and is zoomed into, the report's
// page, the store, every page of the rail; any console error or failed page is a failure. Needs SENMON_URL, SENMON_TOKEN, SENMON_EXPERIMENT.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const { SENMON_URL: url, SENMON_TOKEN: token, SENMON_EXPERIMENT: experiment, SENMON_SHOTS: shots } = process.env;
const program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!program) throw new Error("no Chromium found: scripts/setup-chromium installs it");
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: program, headless: true, args: quiet });
const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
const errors = [];
page.on("pageerror", (error) => errors.push(String(error)));
page.on("console", (message) => message.type() === "error" && !message.text().includes("401") && errors.push(message.text()));

let [passed, failed] = [0, 0];
async function check(name, run) {
  try {
    await run();
    passed += 1;
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`not ok ${name}: ${error.message}`);
  }
}
const shot = (name) => (shots ? page.screenshot({ path: `${shots}/${name}.png` }) : undefined);

await check("signs in with a token", async () => {
  await page.goto(`${url}/experiments`);
  await page.getByLabel("token").fill(token);
  await page.locator("button[type=submit]").click();
  await page.locator("nav .brand").waitFor();
});
await check("the live curve grows", async () => {
  await page.goto(`${url}/experiments/${experiment}`);
  const drawn = async () => Number(await page.locator(".chart").getAttribute("data-points"));
  await page.waitForFunction(() => Number(document.querySelector(".chart")?.dataset.points) > 0, undefined, { timeout: 120_000 });
  await page.locator(".chart canvas").waitFor();
  const before = await drawn();
  await page.waitForFunction((n) => Number(document.querySelector(".chart")?.dataset.points) > n, before, { timeout: 60_000 });
  await shot("experiment");
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
  await page.waitForFunction((n) => Number(document.querySelector(".chart")?.dataset.points) > n, before, { timeout: 60_000 });
  if (!(await whole.isVisible())) throw new Error("new points took the view back");
  await shot("zoomed");
  await page.mouse.dblclick(at(0.5), y);
  await whole.waitFor({ state: "detached" });
});
await check("the store says what it holds", async () => {
  await page.goto(`${url}/checkpoints`);
  await page.locator(".storage .forecast").waitFor();
  const text = await page.locator(".storage").innerText();
  for (const part of ["Shards", "under way"]) if (!text.includes(part)) throw new Error(text);
  await shot("checkpoints");
});
await check("every page of the rail opens", async () => {
  for (const path of ["/experiments", "/workers", "/checkpoints", "/queue", "/events", `/experiments/${experiment}/branches`, `/experiments/${experiment}/domains`]) {
    await page.goto(`${url}${path}`);
    await page.locator("main h1").waitFor();
  }
});
await check("the report's page shows the finding", async () => {
  await page.goto(`${url}/experiments/${experiment}/report`);
  for (let tries = 0; tries < 240 && (await page.locator(".headline").count()) === 0; tries += 1) {
    await page.waitForTimeout(1000);
    await page.reload();
    await page.locator("main h1").waitFor();
    await page.waitForTimeout(200);
  }
  const text = await page.locator(".headline").innerText();
  if (!text.includes("ensemble")) throw new Error(text);
  if ((await page.locator(".matrix td.own").count()) === 0) throw new Error("no cell is outlined");
  await shot("report");
});
await check("the domains show their terms and texts", async () => {
  await page.goto(`${url}/experiments/${experiment}/domains`);
  await page.locator("tbody button").first().click();
  await page.locator("tbody details").first().waitFor();
  await shot("domains");
});
await check("no console error", () => {
  if (errors.length > 0) throw new Error(errors.join("; "));
});
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);

// The dashboard below a path of a proxy, over TLS, in real Chromium: sign-in, every page of the rail by its link and by its
// address, sign-out; any console error is a failure, and what the content security policy forbids is one. Needs SENMON_URL,
// SENMON_TOKEN.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const { SENMON_URL: url, SENMON_TOKEN: token } = process.env;
const program = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
if (!program) throw new Error("no Chromium found: scripts/setup-chromium installs it");
const quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath: program, headless: true, args: quiet });
const context = await browser.newContext({ ignoreHTTPSErrors: true });
const page = await context.newPage();
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

await check("signs in with a token", async () => {
  await page.goto(`${url}/`);
  await page.getByLabel("token").fill(token);
  await page.locator("button[type=submit]").click();
  await page.locator("nav .brand").waitFor();
});
await check("the session's cookie is for this path, over TLS alone", async () => {
  const [cookie] = await context.cookies(`${url}/`);
  const { secure, httpOnly, sameSite, path } = cookie;
  const found = JSON.stringify([secure, httpOnly, sameSite, path]);
  if (found !== JSON.stringify([true, true, "Strict", `${new URL(url).pathname}/`])) throw new Error(found);
});
await check("the rail stays below the path, and every address can be opened anew", async () => {
  for (const name of ["workers", "checkpoints", "queue", "events", "alerts", "tokens", "audit", "experiments"]) {
    await page.locator(`nav a[href="${name}"]:not(.brand)`).click();
    await page.locator("main h1").waitFor();
    if (page.url() !== `${url}/${name}`) throw new Error(page.url());
    await page.reload();
    await page.locator("main h1").waitFor();
  }
  await page.goBack();
  if (page.url() !== `${url}/audit`) throw new Error(page.url());
});
await check("what is chosen stands in the address, below the path; a place of the page is no other page", async () => {
  const who = page.locator("main input[type=search]").first();
  await who.fill("nobody");
  await who.press("Enter");
  await page.waitForURL(`${url}/audit?who=nobody`);
  await page.locator("a.skip").focus();
  await page.keyboard.press("Enter");
  if (page.url() !== `${url}/audit?who=nobody`) throw new Error(page.url());
  if (!(await page.evaluate(() => document.activeElement?.id === "page"))) throw new Error("the page has no focus");
  await page.goto(`${url}/nope`);
  await page.getByText(`${new URL(url).pathname}/nope`).waitFor();
});
await check("the stream is open", async () => {
  const open = await page.evaluate(() => new Promise((done) => {
    const source = new EventSource("api/v1/stream");
    source.onopen = () => { source.close(); done(true); };
    source.onerror = () => done(false);
  }));
  if (!open) throw new Error("it is not");
});
await check("signs out", async () => {
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("token").waitFor();
});
await check("no console errors", async () => {
  if (errors.length > 0) throw new Error(errors.join("\n"));
});
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);

// The documentation and the API inside the dashboard, and a worker's own page.
import { api, check, must, profile, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;

export async function pages() {
  const context = await profile({ permissions: ["clipboard-read", "clipboard-write"] });
  const page = await context.newPage();
  const foreign = [];
  page.on("request", (request) => { if (request.url().startsWith("http") && !request.url().startsWith(url)) foreign.push(request.url()); });

  await check("the documentation is in the rail; its links, its search and its copy buttons work", async () => {
    await page.goto(`${url}/experiments`);
    await page.locator("#rail a[href='docs']").click();
    await page.getByRole("heading", { level: 1, name: "Documentation" }).waitFor();
    await page.locator("article a", { hasText: "Run a fleet of GPU nodes" }).click();
    await page.waitForURL("**/docs/how-to/fleet");
    await page.locator("article h1").waitFor();
    await page.locator(".code button").first().click();
    await page.locator(".code button", { hasText: "Copied" }).waitFor();
    const code = await page.locator(".code code").first().innerText();
    must((await page.evaluate(() => navigator.clipboard.readText())).trim() === code.trim(), "another text was copied");
    await page.locator("main input[type=search]").fill("held-out");
    await page.locator(".found a").first().waitFor();
    await page.locator(".found a[href*='#']").first().click();
    await page.locator("article").waitFor();
    const { hash } = new URL(page.url());
    await until("the section is in view", () => page.evaluate((id) => { const top = document.getElementById(id)?.getBoundingClientRect().top ?? NaN; return top > -2 && top < innerHeight; }, decodeURIComponent(hash.slice(1))));
    await page.goBack();
    await page.locator(".found").waitFor();
    await page.goto(`${url}/docs/nope`);
    await page.getByText("Nothing is found at docs/nope.").waitFor();
  });
  await check("every operation of the description stands on the API's page, with what one types", async () => {
    const answer = await context.request.get(`${url}/openapi.json`);
    const { paths } = await answer.json();
    const count = Object.values(paths).reduce((sum, item) => sum + Object.keys(item).length, 0);
    await page.goto(`${url}/api`);
    await page.locator("details").first().waitFor();
    must((await page.locator("details").count()) === count, `${await page.locator("details").count()} of ${count}`);
    await page.goto(`${url}/api#post_branches_id_fork`);
    await page.locator("#post_branches_id_fork pre", { hasText: "curl" }).waitFor();
    must((await page.locator("#post_branches_id_fork pre").allInnerTexts()).every((text) => text.includes(url)), "examples ask another server");
    await page.locator("main input[type=search]").fill("fork");
    await until("few are left", async () => (await page.locator("details").count()) < 5);
  });
  await check("a worker's page shows how its machine was", async () => {
    const [worker] = (await api("GET", "/workers")).items;
    await until("a reading has come", async () => (await api("GET", `/workers/${worker.id}/metrics`)).sources.length > 0);
    await page.goto(`${url}/workers`);
    await page.getByRole("link", { name: worker.name, exact: true }).click();
    await page.waitForURL(`**/workers/${worker.id}`);
    await page.locator("[data-metric='cpu/share'] canvas").waitFor();
    await page.getByRole("button", { name: "1 hour" }).click();
    await until("the span is in the address", () => new URL(page.url()).searchParams.get("hours") === "1");
    await page.locator("[data-metric='memory/used_bytes'] canvas").waitFor();
  });
  await check("no other host is asked", () => must(foreign.length === 0, foreign.join()));
  await context.close();
}

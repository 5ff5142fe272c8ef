// Loading, empty, failed, there: never one for another; and pages for what does not exist.
import { check, must, profile, until } from "./harness.mjs";

const { SENMON_URL: url, SENMON_TOKEN: token } = process.env;
const problem = { type: "/problems/internal", code: "internal", title: "The server failed", status: 500, detail: "the server could not do it; its log says why", faults: [], request_id: "request-7" };
const refuse = (route, body = problem) => route.fulfill({ status: body.status, contentType: "application/problem+json", body: JSON.stringify(body) });

export async function states(id) {
  const context = await profile({ allowed: [/Failed to load resource/] });
  const page = await context.newPage();
  await check("what is being read is loading, and not empty", async () => {
    let go;
    await page.route("**/api/v1/workers?*", async (route) => { await new Promise((done) => (go = done)); await route.continue(); });
    await page.goto(`${url}/workers`);
    await page.locator("main [data-state=loading]").waitFor();
    must((await page.locator("main [data-state=empty]").count()) === 0, "it says that it is empty");
    go();
    await page.locator("main section").first().waitFor();
    await page.unroute("**/api/v1/workers?*");
  });
  await check("what could not be read says why, with the id, and can be tried again", async () => {
    await page.route("**/api/v1/tokens?*", (route) => refuse(route));
    await page.goto(`${url}/tokens`);
    const failed = page.locator("main [role=alert]");
    await failed.waitFor();
    const text = await failed.innerText();
    must(text.includes(problem.detail) && text.includes("request-7"), text);
    // What the page itself reads again after its stream has opened is over.
    const again = failed.getByRole("button", { name: "Try again" });
    await page.waitForTimeout(1000);
    await until("it can be tried again", () => again.isEnabled());
    await page.unroute("**/api/v1/tokens?*");
    await failed.getByRole("button", { name: "Try again" }).click();
    await failed.waitFor({ state: "detached" });
  });
  await check("unknown things and paths have pages", async () => {
    for (const path of ["/experiments/00000000-0000-0000-0000-000000000000", "/branches/00000000-0000-0000-0000-000000000000", "/nope"]) {
      await page.goto(`${url}${path}`);
      await page.getByRole("heading", { name: "There is no such page" }).waitFor();
      await until("the title says so", async () => (await page.title()).includes("There is no such page"));
    }
    await page.goto(`${url}/experiments/${id}/nope`);
    await page.getByText("Nothing is found at").waitFor();
  });
  await check("an ended session says so in every tab, and the page goes on after the sign-in", async () => {
    const other = await context.newPage();
    await other.goto(`${url}/workers`);
    await page.goto(`${url}/experiments/${id}/events?q=began`);
    await page.locator("main table").waitFor();
    await other.getByRole("button", { name: "Sign out" }).click();
    for (const tab of [page, other]) await tab.getByText("You are signed out").waitFor();
    await page.getByLabel("token").fill(token);
    await page.locator("button[type=submit]").click();
    await page.locator("main table").waitFor();
    must(page.url().endsWith(`/experiments/${id}/events?q=began`), page.url());
    await other.locator("main h1").waitFor();
    await other.close();
  });
  await context.close();
}

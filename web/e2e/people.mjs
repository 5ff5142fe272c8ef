// Who may do what, and what asks first: roles, refusals beside the button, changing, forking, cancelling, tokens, the audit.
import { api, check, must, profile, shot, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;

export async function people(long, done) {
  const context = await profile({ allowed: [/\b409\b/, /\b412\b/, /\b422\b/] });
  const page = await context.newPage();
  const secrets = {};
  await check("an admin makes tokens; the secret is shown once", async () => {
    await page.goto(`${url}/tokens`);
    for (const role of ["viewer", "user"]) {
      await page.getByLabel("Name").fill(`a ${role}`);
      await page.getByLabel("Role").first().selectOption(role);
      await page.getByLabel("Days").fill("3");
      await page.getByRole("button", { name: "Make a token" }).click();
      const field = page.getByLabel(`The secret of a ${role}.`);
      await field.waitFor();
      secrets[role] = await field.inputValue();
      await shot(page, "tokens");
      await page.getByRole("button", { name: "I have it" }).click();
    }
    must(!(await page.locator("main").innerText()).includes(secrets.user), "the secret is still shown");
  });
  for (const role of ["viewer", "user"]) {
    await check(`a ${role} sees no button for what belongs to others`, async () => {
      const theirs = await profile({ secret: secrets[role] });
      const tab = await theirs.newPage();
      await tab.goto(`${url}/experiments/${long}`);
      await tab.locator(".chart").waitFor();
      await tab.goto(`${url}/experiments/${long}`);
      // Charts have a head of their own, with buttons for everybody.
      await tab.locator("h1 + .head").waitFor();
      must((await tab.locator("h1 + .head button").count()) === 0, "there are buttons");
      must((await tab.locator("nav a[href='audit']").count()) === 0, "the audit is in the rail");
      await tab.goto(`${url}/workers`);
      await tab.locator("main section").first().waitFor();
      must((await tab.locator("main section button").count()) === 0, "workers have buttons");
      await theirs.close();
    });
  }
  await check("a refusal is seen beside its button", async () => {
    await page.goto(`${url}/experiments/${long}`);
    const body = { type: "/problems/conflict", code: "conflict", title: "", status: 409, detail: "it is somebody else's turn", faults: [], request_id: "request-8" };
    await page.route("**/pause", (route) => route.fulfill({ status: 409, contentType: "application/problem+json", body: JSON.stringify(body) }));
    await page.getByRole("button", { name: "Pause" }).click();
    const text = await page.locator(".head [role=alert]").innerText();
    must(text.includes(body.detail) && text.includes("request-8"), text);
    await page.unroute("**/pause");
  });
  await check("what somebody else changed meanwhile is shown beside one's own, and one goes on", async () => {
    await page.getByRole("button", { name: "Change" }).click();
    await page.getByLabel("Priority", { exact: true }).fill("70");
    await api("PATCH", `/experiments/${long}`, { priority: 60, budget: { slot_hours: 900 } });
    await page.getByRole("button", { name: "Save" }).click();
    const text = await page.locator(".head table").innerText();
    for (const part of ["60", "70", "900"]) must(text.includes(part), text);
    await shot(page, "clash");
    await page.getByRole("button", { name: "Save mine all the same" }).click();
    await page.getByText("Saved.").waitFor();
    const { spec } = await api("GET", `/experiments/${long}`);
    must(spec.priority === 70 && spec.budget.slot_hours === 900, JSON.stringify(spec.budget));
    await page.getByRole("button", { name: "Close" }).click();
  });
  await check("a branch is forked from its page", async () => {
    const { branches } = await api("GET", `/experiments/${long}`);
    await page.goto(`${url}/branches/${branches.find((branch) => branch.role === "seed").id}`);
    await page.getByRole("button", { name: "Fork …" }).click();
    await page.locator(".head section").getByLabel("Tokens").fill("100K");
    await shot(page, "fork");
    await page.getByRole("button", { name: "Fork", exact: true }).click();
    await page.locator("h1", { hasText: "seed-fork" }).waitFor();
    await page.goto(`${url}/experiments/${long}`);
  });
  await check("cancel asks with the name and what is lost; the stages end with their experiment", async () => {
    await page.getByRole("button", { name: "Cancel" }).click();
    const dialog = page.getByRole("dialog", { name: "Cancel the experiment long seed?" });
    await dialog.waitFor();
    must((await dialog.innerText()).includes("tokens are trained"), await dialog.innerText());
    await shot(page, "cancel");
    await dialog.getByRole("button", { name: "Keep it" }).click();
    must((await api("GET", `/experiments/${long}`)).state === "running", "it was cancelled");
    await page.getByRole("button", { name: "Cancel" }).click();
    await dialog.getByRole("button", { name: "Cancel long seed" }).click();
    await page.locator(".head [data-state-of=cancelled]").waitFor();
    await until("no stage runs", async () => (await page.locator("ol [data-state-of=running]").count()) === 0);
    must((await page.locator("ol [data-state-of=stopped]").count()) > 0, "no stage was stopped");
  });
  await check("revoking asks first and signs out; the audit says who did what", async () => {
    const theirs = await profile({ secret: secrets.user });
    const tab = await theirs.newPage();
    await tab.goto(`${url}/experiments/${done}`);
    await tab.locator("main h1").waitFor();
    await page.goto(`${url}/tokens?q=a%20user`);
    await page.locator("tbody").getByRole("button", { name: "Revoke" }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
    await page.getByText("Nothing fits").or(page.locator("tbody:not(:has(tr))")).first().waitFor({ state: "attached" });
    await tab.getByText("You are signed out").waitFor();
    await theirs.close();
    await page.goto(`${url}/audit?target=${long}`);
    await page.getByText("POST /experiments/{id}/cancel").waitFor();
    must((await page.locator("main").innerText()).includes("running → cancelled"), "the change is not told");
    await shot(page, "audit");
    await page.locator("tbody a[href^='audit?who=']").first().click();
    await until("the filter is in the address", () => new URL(page.url()).searchParams.has("who"));
  });
  await context.close();
}

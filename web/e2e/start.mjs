// A report that is handed on, and an experiment that is started from the page: form, file, faults beside their lines.
import { readFile } from "node:fs/promises";
import { api, check, must, profile, shot, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;

export async function start(id) {
  const context = await profile({ allowed: [/\b422\b/] });
  const page = await context.newPage();
  await check("a report becomes a file: HTML that stands alone, Markdown, JSON, a model card", async () => {
    await page.goto(`${url}/experiments/${id}/report`);
    const saved = async (name) => {
      const [file] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name, exact: true }).click()]);
      return readFile(await file.path(), "utf8");
    };
    const html = await saved("HTML");
    must(html.includes("<svg") && html.includes("random-0") && !/<script|src=|href=/.test(html), html.slice(0, 400));
    must((await saved("Markdown")).startsWith("# small\n"), "the Markdown has no title");
    const data = JSON.parse(await saved("JSON"));
    must(data.report.experiment_id === id && data.ensemble.experts.length > 0 && !data.domains[0].nearest, Object.keys(data).join());
    const card = await saved("Model card");
    must(card.startsWith("---\n") && card.includes("library_name: transformers") && card.includes(data.ensemble.experts[0].checkpoint.id), card.slice(0, 400));
  });
  await check("controls are folded away, the threshold moves the marks, curves are drawn", async () => {
    const rows = page.locator(".matrix").last().locator("tbody tr");
    const before = await rows.count();
    await page.getByRole("button", { name: /Show \d+ controls/ }).click();
    await until("the controls are shown", async () => (await rows.count()) > before);
    const marked = () => page.locator(".matrix td[style*=background]").count();
    await page.getByLabel("Mark differences above").fill("99");
    await page.keyboard.press("Enter");
    await until("nothing is marked", async () => (await marked()) === 0);
    must(new URL(page.url()).searchParams.get("over") === "99", page.url());
    must((await page.locator(".figure svg").count()) >= 2, "a figure is missing");
  });
  await check("a fault stands beside its line, with what was meant; a choice changes the text", async () => {
    await page.goto(`${url}/experiments/new`);
    const text = page.getByLabel("File", { exact: true });
    await text.waitFor();
    await page.getByLabel("Corpus").selectOption("small");
    await page.getByLabel("Domains, and experts").fill("3");
    await page.keyboard.press("Tab");
    await until("the choice is in the text", async () => /domains: 3\n/.test(await text.inputValue()));
    await text.fill((await text.inputValue()).replace("learning_rate", "learning_rat").replace("name: my-experiment", "name: from the page"));
    const note = page.locator(".editor li", { hasText: "learning_rat" });
    await note.waitFor();
    must((await note.innerText()).includes("Line "), await note.innerText());
    must(await page.getByRole("button", { name: "Start", exact: true }).isDisabled(), "it can be started");
    await shot(page, "fault");
    await note.getByRole("button", { name: "learning_rate", exact: true }).click();
    await note.waitFor({ state: "detached" });
  });
  await check("the plan is shown while one types; what is started is what the file says", async () => {
    const text = page.getByLabel("File", { exact: true });
    // What the corpus of the tests has room for.
    const { spec } = await api("GET", `/experiments/${id}`);
    await text.fill(JSON.stringify({ ...spec, name: "from the page", labels: ["page"] }, null, 1));
    await page.locator(".plan dl").waitFor();
    await page.getByText("The server found nothing to refuse.").waitFor();
    await shot(page, "plan");
    await page.getByRole("button", { name: "Start", exact: true }).click();
    await page.locator("h1", { hasText: "from the page" }).waitFor();
    const made = page.url().split("/").at(-1);
    must((await api("GET", `/experiments/${made}`)).labels.includes("page"), "the file was not what was sent");
    await api("POST", `/experiments/${made}/cancel`, {});
  });
  await context.close();
}

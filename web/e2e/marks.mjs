// Labels, a note, stars: written on an experiment's page, and found again in the list.
import { api, check, must, profile, shot, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;

export async function marks(id) {
  const context = await profile({ allowed: [/\b412\b/, /\b422\b/] });
  const page = await context.newPage();
  const form = page.getByRole("region", { name: "Labels and note" });
  await check("labels and a note are written on the page of an experiment that is over; no HTML of the note is HTML", async () => {
    await page.goto(`${url}/experiments/${id}`);
    await page.getByRole("button", { name: "Labels and note" }).click();
    await form.getByLabel("Labels").fill("team=speech, keep");
    await form.getByLabel("Note").fill("It **works**; see <img src=x onerror=alert(1)>.");
    await shot(page, "marks");
    await form.getByRole("button", { name: "Save" }).click();
    await page.locator(".note strong", { hasText: "works" }).waitFor();
    must((await page.locator(".note img").count()) === 0, "the note has a picture");
    must((await page.locator(".note").innerText()).includes("<img"), "their HTML is not shown as text");
    const { labels, note } = await api("GET", `/experiments/${id}`);
    must(labels.join() === "team=speech,keep" && note.startsWith("It **works**"), JSON.stringify({ labels, note }));
  });
  await check("what somebody else labelled meanwhile is not written over; what is no label is refused in words", async () => {
    await page.getByRole("button", { name: "Labels and note" }).click();
    await form.getByLabel("Labels").fill("mine");
    await api("PATCH", `/experiments/${id}`, { labels: ["team=speech", "theirs"] });
    await form.getByRole("button", { name: "Save" }).click();
    await form.getByRole("alert").waitFor();
    must((await form.getByRole("alert").innerText()).includes("theirs"), "it is not told what is there now");
    must((await api("GET", `/experiments/${id}`)).labels.includes("theirs"), "it was written over");
    await form.getByRole("button", { name: "Close" }).click();
    await page.getByRole("button", { name: "Labels and note" }).click();
    await form.getByLabel("Labels").fill("x".repeat(101));
    await form.getByRole("button", { name: "Save" }).click();
    await form.getByRole("alert").waitFor();
    await form.getByRole("button", { name: "Close" }).click();
  });
  await check("a star stays in the browser; the list is filtered by it and by labels, and the address says so", async () => {
    const star = page.getByRole("button", { name: /^Star / });
    await star.click();
    must((await star.getAttribute("aria-pressed")) === "true", "it is not starred");
    await page.goto(`${url}/experiments`);
    const rows = page.locator("tbody tr");
    await rows.first().waitFor();
    must((await rows.count()) > 1, "there is one experiment only");
    await page.getByRole("button", { name: "Starred" }).click();
    await until("the starred one is left", async () => (await rows.count()) === 1);
    must(new URL(page.url()).searchParams.get("starred") === "1", page.url());
    await page.goto(`${url}/experiments?labels=${encodeURIComponent("team=speech")}`);
    await until("the labelled one is left", async () => (await rows.count()) === 1);
    await shot(page, "labels");
    await page.getByRole("button", { name: "#team=speech ×" }).click();
    await until("all are back", async () => (await rows.count()) > 1);
  });
  await check("what is over is deleted on its page after a question, and stands among the deleted ones", async () => {
    const { spec } = await api("GET", `/experiments/${id}`);
    const made = await api("POST", "/experiments", { ...spec, name: "to be deleted", labels: [] });
    await api("POST", `/experiments/${made.id}/cancel`, {});
    await page.goto(`${url}/experiments/${made.id}`);
    await page.getByRole("button", { name: "Delete …" }).click();
    const dialog = page.getByRole("dialog", { name: "Delete the experiment to be deleted?" });
    await dialog.getByRole("button", { name: "Delete to be deleted" }).click();
    await page.waitForURL("**/experiments");
    await page.locator("tbody tr").first().waitFor();
    must((await page.locator("tbody tr", { hasText: "to be deleted" }).count()) === 0, "it is still listed");
    await page.getByRole("button", { name: "Deleted", exact: true }).click();
    await page.locator("tbody tr", { hasText: "to be deleted" }).waitFor();
    must(new URL(page.url()).searchParams.get("archived") === "1", page.url());
  });
  await context.close();
}

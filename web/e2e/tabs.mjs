// Many tabs of one browser: one stream for all, each alive, through the server's restart and the end of the tab that leads.
import { api, check, gate, must, profile, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;
const points = (page) => page.locator(".chart").getAttribute("data-points").then(Number);

/** Counts the streams that a browser has open. */
function streamsOf(context) {
  const streams = new Map();
  context.on("request", (request) => request.resourceType() === "eventsource" && streams.set(request, request.frame().page()));
  for (const over of ["requestfinished", "requestfailed"]) context.on(over, (request) => streams.delete(request));
  // Of a page that is closed nothing more is told.
  return () => [...streams.values()].filter((page) => !page.isClosed()).length;
}

export async function tabs(id) {
  const door = await gate();
  const context = await profile({ url: door.url, allowed: [/ERR_/, /Failed to load resource/] });
  const streams = streamsOf(context);
  const { branches } = await (async () => {
    let found;
    await until("the long experiment trains", async () => (found = await api("GET", `/experiments/${id}`)).branches.some((branch) => branch.step > 0), 180_000);
    return found;
  })();
  const seed = branches.find((branch) => branch.role === "seed");
  const paths = [`/experiments/${id}`, `/branches/${seed.id}`, `/experiments/${id}/events`, `/branches/${seed.id}`, "/workers", "/queue", "/events", "/experiments", `/experiments/${id}/report`, "/checkpoints"];
  const pages = [];

  const allLive = async (of) => {
    for (const page of of.filter((page) => /branches|experiments\/[^/]+$/.test(page.url()))) {
      await page.waitForFunction(() => Number(document.querySelector(".chart")?.dataset.points) > 0);
      const before = await points(page);
      await until(`the curve of ${page.url()} grows`, async () => (await points(page)) > before);
    }
  };
  /** Every tab is answered, however many there are. */
  const allAnswered = async (of) => {
    for (const page of of) must((await page.evaluate(() => fetch("api/v1/session").then((answer) => answer.status))) === 200, `${page.url()} is not answered`);
  };

  await check("ten tabs are live with one stream", async () => {
    for (const path of paths) {
      const page = await context.newPage();
      pages.push(page);
      await page.goto(`${door.url}${path}`);
      await page.locator("main h1").waitFor();
    }
    await allLive(pages);
    await allAnswered(pages);
    must(streams() === 1, `${streams()} streams are open`);
  });
  await check("an action in one tab is seen in the others", async () => {
    const [first, branch, , , , , , list, report] = pages;
    await first.getByRole("button", { name: "Pause" }).click();
    for (const page of [list, report]) await page.locator("[data-state-of=paused]").first().waitFor();
    await branch.getByText("Its experiment is paused.").waitFor();
    await first.getByRole("button", { name: "Resume" }).click();
    for (const page of [report, branch]) await page.locator(".head [data-state-of=running]").waitFor();
  });
  await check("a branch that trains is asked for what is new only", async () => {
    const page = pages[1];
    await allLive([page]);
    const asked = [];
    const note = (request) => request.url().includes("/api/v1/") && asked.push(new URL(request.url()).pathname.split("/").pop());
    page.on("request", note);
    const before = await points(page);
    await until("forty more points", async () => (await points(page)) >= before + 40);
    page.off("request", note);
    // At most the thinning of curves that have become too long: one of each chart.
    const charts = await page.locator(".plot").count();
    must(asked.filter((name) => name === "metrics").length <= charts, `asked for ${asked.join(", ")}`);
  });
  await check("while the server is away every tab says since when, and its buttons are off", async () => {
    await door.close();
    for (const page of pages) await page.locator(".strip.stale").waitFor();
    must(await pages[0].getByRole("button", { name: "Pause" }).isDisabled(), "Pause is on");
    must((await pages[4].locator("main section").count()) > 0, "what was shown is gone");
  });
  await check("when it is back all tabs go on by themselves, with one stream", async () => {
    await door.open();
    for (const page of pages) await page.locator(".strip.stale").waitFor({ state: "detached" });
    await allLive(pages);
    await allAnswered(pages);
    must(streams() === 1, `${streams()} streams are open`);
  });
  await check("the others go on when the tab that leads is closed, left, or come back to", async () => {
    await pages.shift().close();
    await allLive(pages);
    must(streams() === 1, `${streams()} streams are open`);
    await pages[0].goto("about:blank");
    await allLive(pages.slice(1));
    await pages[0].goBack();
    await allLive(pages);
    must(streams() === 1, `${streams()} streams are open`);
  });
  await context.close();
  await door.close();
  await check("a browser without Web Locks, as on plain http from another machine, has one stream too", async () => {
    const plain = await profile();
    await plain.addInitScript(() => delete Navigator.prototype.locks);
    const open = streamsOf(plain);
    const three = [];
    for (const path of ["/workers", `/branches/${seed.id}`, `/branches/${seed.id}`]) {
      const page = await plain.newPage();
      three.push(page);
      await page.goto(`${url}${path}`);
    }
    must((await three[0].evaluate(() => "locks" in navigator)) === false, "there are locks");
    await allLive(three);
    await until("one stream is open", () => open() === 1);
    await three.shift().close();
    await allLive(three);
    await until("one stream is open", () => open() === 1);
    await plain.close();
  });
}

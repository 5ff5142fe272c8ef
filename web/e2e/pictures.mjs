// The pictures of the documentation, of the newest experiment that is completed. `node pictures.mjs FOLDER`; needs
// SENMON_URL and SENMON_TOKEN.
import { api, browser, errors, must, profile, until } from "./harness.mjs";

const { SENMON_URL: url } = process.env;
const folder = `${process.cwd()}/${process.argv[2] ?? "docs"}`;
const wide = { viewport: { width: 1280, height: 800 }, colorScheme: "light", locale: "en-GB", reducedMotion: "reduce" };
const looks = {
  light: wide,
  dark: { ...wide, colorScheme: "dark" },
  japanese: { ...wide, locale: "ja-JP" },
  phone: { ...wide, locale: "ja-JP", colorScheme: "dark", viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true },
};

const done = (await api("GET", "/experiments?state=completed")).items[0];
must(done, "no experiment is completed here");
const { branches } = await api("GET", `/experiments/${done.id}`);
const expert = branches.find((branch) => branch.role === "expert");
const [worker] = (await api("GET", "/workers")).items;
must(expert && worker, "there is no expert, or no worker");
await until("the worker told how its machine is", async () => (await api("GET", `/workers/${worker.id}/metrics`)).sources.length > 0);

const overview = `/experiments/${done.id}`;
/** Name, look, page, and what must be there. */
const pictures = [
  ["dashboard", "light", overview, ".chart canvas"],
  ["dashboard-dark", "dark", overview, ".chart canvas"],
  ["dashboard-ja", "japanese", overview, ".chart canvas"],
  ["phone", "phone", overview, ".chart canvas"],
  ["report", "light", `${overview}/report`, "main table"],
  ["domains", "light", `${overview}/domains/0`, "details"],
  ["metrics", "dark", `${overview}/metrics`, ".panels canvas"],
  ["branch", "light", `/branches/${expert.id}`, ".chart canvas"],
  ["worker", "light", `/workers/${worker.id}?hours=1`, ".panels canvas"],
];

const contexts = {};
for (const [name, look, path, wanted] of pictures) {
  contexts[look] ??= await profile(looks[look]);
  const page = await contexts[look].newPage();
  await page.goto(`${url}${path}`);
  await page.locator(wanted).first().waitFor();
  await page.waitForFunction(() => !document.querySelector("[data-state=loading]"));
  await page.waitForTimeout(500);
  await page.screenshot({ path: `${folder}/${name}.png` });
  await page.close();
}
must(errors.length === 0, errors.join("; "));
await browser.close();

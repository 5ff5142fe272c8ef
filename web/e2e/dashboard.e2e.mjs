// The dashboard in real Chromium against a real server. Any console error or failed page is a failure. Needs SENMON_URL,
// SENMON_TOKEN (an admin's), SENMON_EXPERIMENT (under way); SENMON_SHOTS is a folder for pictures.
import { api, browser, check, counts, errors, must } from "./harness.mjs";
import { addresses } from "./address.mjs";
import { curves } from "./curves.mjs";
import { life } from "./life.mjs";
import { looks } from "./looks.mjs";
import { marks } from "./marks.mjs";
import { pages } from "./pages.mjs";
import { people } from "./people.mjs";
import { start } from "./start.mjs";
import { states } from "./states.mjs";
import { tabs } from "./tabs.mjs";

const id = process.env.SENMON_EXPERIMENT;
// `all` takes ten tabs, axe on every page and some minutes; `life` and `start` are what every change must pass.
const isWhole = process.env.SENMON_PARTS === "all";

await life(id);
if (isWhole) {
  // Trains for as long as the rest needs it, and is cancelled by it.
  const { spec } = await api("GET", `/experiments/${id}`);
  const long = await api("POST", "/experiments", { ...spec, name: "long seed", labels: ["overnight"], seed: { kind: "train", tokens: 30_000_000 } });
  await tabs(long.id);
  await states(id);
  await addresses(long.id, id);
  await curves(id);
  await people(long.id, id);
  await marks(id);
  await pages();
  await looks(id);
}
// Leaves an experiment behind that lists would show.
await start(id);
await check("no console error", () => must(errors.length === 0, errors.join("; ")));
await browser.close();
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exit(counts.failed === 0 ? 0 : 1);

// What `make bench-web` measures in the browser: first loads with the cache off, beside TensorBoard and MLflow where
// BENCH_PYTHON has them, and a pan over a hundred long branches. Needs SENMON_URL, SENMON_TOKEN, BENCH_DEMO, BENCH_WIDE,
// BENCH_FOLDER and BENCH_OUT.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import net from "node:net";
import { dirname, join } from "node:path";
import { api, browser, errors, must, profile, until } from "./harness.mjs";
import { framesOf, pan, quantile } from "./pan.mjs";

const { SENMON_URL: url, BENCH_DEMO: demo, BENCH_WIDE: wide, BENCH_FOLDER: folder, BENCH_OUT: out, BENCH_PYTHON: python } = process.env;
const seconds = Number(process.env.BENCH_SECONDS ?? 5);
const times = Number(process.env.BENCH_TIMES ?? 3);
const size = { viewport: { width: 1440, height: 900 } };

const median = (numbers) => quantile(numbers, 0.5);
/** Of figures measured several times, the middle of each. */
const medians = (all) => Object.fromEntries(Object.keys(all[0]).map((name) => [name, median(all.map((one) => one[name]))]));

/** Opens an address with nothing cached; tells what came and when the chart, as `isDrawn` sees it in the page, was there. */
async function load(context, address, isDrawn) {
  const page = await context.newPage();
  const cdp = await context.newCDPSession(page);
  await cdp.send("Network.enable");
  await cdp.send("Network.setCacheDisabled", { cacheDisabled: true });
  let [bytes, requests] = [0, 0];
  cdp.on("Network.requestWillBeSent", ({ request }) => { if (request.url.startsWith("http")) requests += 1; });
  cdp.on("Network.dataReceived", ({ encodedDataLength }) => { bytes += encodedDataLength; });
  await page.addInitScript((source) => {
    const isDrawn = new Function(`return (${source})()`);
    window.longest_ms = 0;
    window.shift = 0;
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.longest_ms = Math.max(window.longest_ms, entry.duration); }).observe({ type: "longtask", buffered: true });
    new PerformanceObserver((list) => { for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value; }).observe({ type: "layout-shift", buffered: true });
    const look = () => {
      if (window.top === window && isDrawn()) window.drawn_ms = performance.now();
      else requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  }, isDrawn.toString());
  await page.goto(address, { waitUntil: "commit" });
  await page.waitForFunction(() => window.drawn_ms !== undefined, undefined, { timeout: 120_000 });
  await page.waitForTimeout(1500);
  const told = await page.evaluate(() => ({ first_paint_ms: performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN, chart_ms: window.drawn_ms, longest_task_ms: window.longest_ms, layout_shift: window.shift }));
  return { page, figures: { bytes, requests, ...told } };
}

async function loads(context, address, isDrawn) {
  const all = [];
  for (let i = 0; i < times; i += 1) {
    const { page, figures } = await load(context, address, isDrawn);
    all.push(figures);
    await page.close();
  }
  return medians(all);
}

const ofSenmon = () => Number(document.querySelector(".chart")?.getAttribute("data-points")) > 0 && !!document.querySelector(".chart canvas");
const ofTensorBoard = () => !!document.querySelector("line-chart canvas, line-chart svg path, vz-line-chart2 path");
const ofMlflow = () => document.querySelectorAll(".js-plotly-plot .scatterlayer .trace path").length > 0;

const free = () => new Promise((done) => { const at = net.createServer().listen(0, "127.0.0.1", () => { const { port } = at.address(); at.close(() => done(port)); }); });
async function serve(name, args, port) {
  const child = spawn(python, args, { stdio: ["ignore", "ignore", "inherit"], detached: true });
  const answers = () => fetch(`http://127.0.0.1:${port}/`).then((answer) => answer.ok, () => false);
  await until(`${name} answers`, answers);
  return () => process.kill(-child.pid, "SIGTERM");
}

/** The same curves in TensorBoard and MLflow. */
async function others() {
  if (!python || !existsSync(python)) return {};
  mkdirSync(folder, { recursive: true });
  const { branches } = await api("GET", `/experiments/${demo}`);
  const all = await api("GET", `/experiments/${demo}/metrics?keys=train/loss&points_max=5000`);
  const curves = all.map(({ branch_id, steps, series }) => ({ name: branches.find(({ id }) => id === branch_id).name, steps, losses: series["train/loss"].mean }));
  writeFileSync(join(folder, "curves.json"), JSON.stringify(curves));
  const made = spawnSync(python, [join(dirname(new URL(import.meta.url).pathname), "../../tests/bench/others.py"), join(folder, "curves.json"), folder], { encoding: "utf8" });
  must(made.status === 0, `the curves could not be written: ${made.stderr}`);
  const experiment = made.stdout.trim().split("\n").at(-1);
  const [tb, ml] = [await free(), await free()];
  const versions = spawnSync(python, ["-c", "import importlib.metadata as m; print(m.version('tensorboard'), m.version('mlflow'))"], { encoding: "utf8" }).stdout.trim().split(" ");
  const stops = [];
  try {
    stops.push(await serve("TensorBoard", ["-m", "tensorboard.main", "--logdir", join(folder, "events"), "--port", String(tb), "--host", "127.0.0.1"], tb));
    stops.push(await serve("MLflow", ["-m", "mlflow", "server", "--backend-store-uri", `sqlite:///${join(folder, "mlflow.db")}`, "--default-artifact-root", join(folder, "artifacts"), "--port", String(ml), "--host", "127.0.0.1", "--workers", "1"], ml));
    const context = await browser.newContext(size);
    // What a server reads when it is asked first is no part of the comparison.
    for (const [address, isDrawn] of [[`http://127.0.0.1:${tb}/`, ofTensorBoard], [`http://127.0.0.1:${ml}/#/experiments/${experiment}/runs?compareRunsMode=CHART`, ofMlflow]]) await (await load(context, address, isDrawn)).page.close();
    const found = {
      tensorboard: { version: versions[0], ...(await loads(context, `http://127.0.0.1:${tb}/`, ofTensorBoard)) },
      mlflow: { version: versions[1], ...(await loads(context, `http://127.0.0.1:${ml}/#/experiments/${experiment}/runs?compareRunsMode=CHART`, ofMlflow)) },
    };
    await context.close();
    return found;
  } finally {
    for (const stop of stops) stop();
  }
}

const context = await profile(size);
await (await load(context, `${url}/experiments/${demo}`, ofSenmon)).page.close();
const senmon = await loads(context, `${url}/experiments/${demo}`, ofSenmon);
const beside = await others();
const wideLoads = await loads(context, `${url}/experiments/${wide}`, ofSenmon);
const { page } = await load(context, `${url}/experiments/${wide}`, ofSenmon);
const drawn = Number(await page.locator(".chart").first().getAttribute("data-points"));
const pans = [];
for (let i = 0; i < times; i += 1) pans.push(framesOf(await pan(page, { seconds })));
// Zoomed in, finer points come from the server.
const plot = await page.locator(".chart .u-over").first().boundingBox();
await page.mouse.move(plot.x + 200, plot.y + 100);
await page.mouse.down();
await page.mouse.move(plot.x + 300, plot.y + 100, { steps: 4 });
await page.mouse.up();
await page.waitForTimeout(2000);
const zoomed = [];
for (let i = 0; i < times; i += 1) zoomed.push(framesOf(await pan(page, { seconds })));
must(errors.length === 0, errors.join("; "));
writeFileSync(out, JSON.stringify({ chromium: browser.version(), times, finished_demo: { senmon, ...beside }, wide: { ...wideLoads, points_drawn: drawn, pan: medians(pans), pan_zoomed: medians(zoomed) } }));
await browser.close();

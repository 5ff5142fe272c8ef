// How smoothly a chart pans: frames while the mouse drags it, as the browser's own clock has them.

/** Pans for so long, there and back, and tells the times between frames. */
export async function pan(page, { seconds = 3 } = {}) {
  const plot = await page.locator(".chart .u-over").first().boundingBox();
  const [x, y] = [plot.x + plot.width / 2, plot.y + plot.height / 2];
  await page.evaluate(() => {
    window.frames_ms = [];
    let last = performance.now();
    const next = (now) => {
      window.frames_ms.push(now - last);
      last = now;
      window.frames_end = requestAnimationFrame(next);
    };
    window.frames_end = requestAnimationFrame((now) => { last = now; next(now); });
  });
  await page.keyboard.down("Shift");
  await page.mouse.move(x, y);
  await page.mouse.down();
  const start = Date.now();
  for (let i = 0; Date.now() - start < seconds * 1000; i += 1) {
    const at = (Date.now() - start) / 1000;
    await page.mouse.move(x + (plot.width / 3) * Math.sin(at * 2), y);
    // As often as a mouse tells.
    await new Promise((go) => setTimeout(go, 4));
  }
  const frames = await page.evaluate(() => (cancelAnimationFrame(window.frames_end), window.frames_ms.slice(1)));
  await page.mouse.up();
  await page.keyboard.up("Shift");
  return frames;
}

/** The value below which a share of the numbers lie. */
export function quantile(numbers, share) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN;
}

/** What the frames say. */
export function framesOf(frames) {
  const total = frames.reduce((sum, ms) => sum + ms, 0);
  return { frames: frames.length, per_second: (1000 * frames.length) / total, ms_p50: quantile(frames, 0.5), ms_p95: quantile(frames, 0.95), ms_max: Math.max(...frames) };
}

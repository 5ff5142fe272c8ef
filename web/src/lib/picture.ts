// A chart as a picture with its title and its legend, and files to save.
import type { Trace } from "./traces";

export function download(name: string, blob: Blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The browser has begun to read it by then.
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Pixels of a line of text, and of the dash before a name. */
const [LINE, DASH, GAP] = [20, 24, 16];

/** Title, plot and legend below each other, on the page's own ground. */
export async function pictureOf(plot: HTMLCanvasElement, title: string, traces: Trace[]): Promise<Blob | null> {
  const ratio = plot.width / Math.max(1, plot.clientWidth);
  const width = plot.clientWidth;
  const style = getComputedStyle(document.documentElement);
  const font = style.getPropertyValue("--sans");
  const canvas = document.createElement("canvas");
  const ctx = canvas.getContext("2d");
  if (!ctx) return null;
  ctx.font = `12px ${font}`;
  // Where each name of the legend stands.
  let [x, y] = [8, 0];
  const names = traces.map((trace) => {
    const text = trace.members > 1 ? `${trace.name} × ${trace.members}` : trace.name;
    const size = DASH + ctx.measureText(text).width + GAP;
    if (x + size > width && x > 8) [x, y] = [8, y + LINE];
    const at = { trace, text, x, y };
    x += size;
    return at;
  });
  const head = LINE + 8;
  canvas.width = plot.width;
  canvas.height = Math.ceil((head + plot.clientHeight + y + LINE + 12) * ratio);
  ctx.scale(ratio, ratio);
  ctx.fillStyle = style.getPropertyValue("--background");
  ctx.fillRect(0, 0, width, canvas.height / ratio);
  ctx.fillStyle = style.getPropertyValue("--text");
  ctx.textBaseline = "middle";
  ctx.font = `600 14px ${font}`;
  ctx.fillText(title, 8, 4 + LINE / 2);
  ctx.drawImage(plot, 0, head, width, plot.clientHeight);
  ctx.font = `12px ${font}`;
  for (const { trace, text, x, y } of names) {
    const at = head + plot.clientHeight + y + LINE / 2 + 4;
    ctx.strokeStyle = trace.look.stroke;
    ctx.lineWidth = 2.5;
    ctx.setLineDash(trace.look.dash.map((part) => part / 2 + 1));
    ctx.beginPath();
    ctx.moveTo(x, at);
    ctx.lineTo(x + DASH - 6, at);
    ctx.stroke();
    ctx.fillText(text, x + DASH, at);
  }
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

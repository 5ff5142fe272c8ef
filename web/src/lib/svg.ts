// A figure of a few curves as SVG text: the same on the page, on paper and in a file that is handed on. Pure. Colours of
// lines and letters are the page's, by their names.
import { evenTicks } from "./range";

/** A curve; places without a value break it. `marks` are places that are ringed. */
export type Series = { name: string; stroke: string; dash: number[]; isFaint?: boolean; points: [number, number | null][]; marks?: [number, number][] };
export type Figure = {
  /** What it shows, for those who do not see it. */
  says: string;
  x: { label: string; ticks: { at: number; text: string }[]; isLog?: boolean };
  y: { label: string; write: (values: number[]) => string[]; /** A level that is drawn across. */ level?: { at: number; text: string } };
  series: Series[];
};

const [HEIGHT, LINE, DASH, GAP, FONT] = [260, 18, 28, 16, 12];
/** Pixels around the plot; what stands left of it follows from its numbers. */
const [TOP, RIGHT, FOOT] = [24, 16, 44];
/** Dashes of a level. */
const LEVEL = [2, 4];
/** Room above and below the curves, as a part of their range. */
const ROOM = 0.08;

export const escape = (text: string) => text.replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);

/** Pixels of a text, as far as they are known without a font: letters of a script without spaces are wide. */
export const widthOf = (text: string) => [...text].reduce((sum, letter) => sum + (letter.charCodeAt(0) > 0x2e7f ? FONT : FONT * 0.55), 0);

const n = (value: number) => Number(value.toFixed(1));

/** Lowest and highest value of all curves and of the level, with room. */
function rangeOf({ series, y }: Figure): [number, number] {
  const values = [...series.flatMap((one) => one.points.flatMap(([, value]) => (value === null ? [] : [value]))), ...(y.level ? [y.level.at] : [])];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const by = (high - low || Math.abs(high) || 1) * ROOM;
  return [low - by, high + by];
}

/** Names of the curves, wrapped to a width. */
function legend(series: Series[], width: number, top: number): { text: string; height: number } {
  let [x, y] = [0, 0];
  const parts = series.map(({ name, stroke, dash, isFaint }) => {
    const size = DASH + widthOf(name) + GAP;
    if (x > 0 && x + size > width) [x, y] = [0, y + LINE];
    const at = top + y + LINE / 2;
    const text = `<line x1="${n(x)}" x2="${n(x + DASH - 6)}" y1="${at}" y2="${at}" stroke="${stroke}" stroke-width="${isFaint ? 1.5 : 2.5}" stroke-dasharray="${dash.join(" ")}"/><text x="${n(x + DASH)}" y="${at + 4}" fill="var(--text)">${escape(name)}</text>`;
    x += size;
    return text;
  });
  return { text: parts.join(""), height: y + LINE };
}

/** Ticks that do not run into each other, from left to right. */
function apart(ticks: Figure["x"]["ticks"], place: (at: number) => number) {
  let end = -Infinity;
  return ticks.filter(({ at, text }) => {
    const half = widthOf(text) / 2;
    if (place(at) - half < end + 8) return false;
    end = place(at) + half;
    return true;
  });
}

/** The figure, so many pixels wide. */
export function svgOf(figure: Figure, width: number): string {
  const { x: across, y: up, series, says } = figure;
  const [low, high] = rangeOf(figure);
  const levels = evenTicks(low, high, 5);
  const written = up.write(levels);
  const left = Math.max(40, 12 + Math.max(0, ...written.map(widthOf)));
  const level = (value: number) => (across.isLog ? Math.log(value) : value);
  const places = [...series.flatMap((one) => one.points.map(([at]) => level(at))), ...across.ticks.map(({ at }) => level(at))];
  const [from, to] = [Math.min(...places), Math.max(...places)];
  const foot = HEIGHT - FOOT;
  // A single place stands in the middle.
  const px = (at: number) => n(to > from ? left + 8 + ((level(at) - from) / (to - from)) * (width - left - RIGHT - 16) : (left + width - RIGHT) / 2);
  const py = (value: number) => n(foot - ((value - low) / (high - low)) * (foot - TOP));
  const path = (points: Series["points"]) => points.map(([at, value], i) => (value === null ? "" : `${i === 0 || points[i - 1]?.[1] === null ? "M" : "L"}${px(at)},${py(value)}`)).join("");
  const named = up.level ? [...series, { name: up.level.text, stroke: "var(--bad)", dash: LEVEL, isFaint: true, points: [] }] : series;
  const names = legend(named, width, HEIGHT);
  const curves = series.map(({ stroke, dash, isFaint, points, marks }) => {
    const dots = points.map(([at, value]) => (value === null || isFaint ? "" : `<circle cx="${px(at)}" cy="${py(value)}" r="2.5" fill="${stroke}"/>`)).join("");
    const rings = (marks ?? []).map(([at, value]) => `<circle cx="${px(at)}" cy="${py(value)}" r="7" fill="none" stroke="var(--text)" stroke-width="2"/>`).join("");
    return `<path d="${path(points)}" fill="none" stroke="${stroke}" stroke-width="${isFaint ? 1.5 : 2}" stroke-dasharray="${dash.join(" ")}"/>${dots}${rings}`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="${escape(says)}" viewBox="0 0 ${n(width)} ${HEIGHT + names.height}" width="${n(width)}" height="${HEIGHT + names.height}" font-size="${FONT}">`,
    `<text x="0" y="12" fill="var(--muted)">${escape(up.label)}</text>`,
    ...levels.map((value, i) => `<line x1="${left}" x2="${width - RIGHT}" y1="${py(value)}" y2="${py(value)}" stroke="var(--line)"/><text x="${left - 6}" y="${py(value) + 4}" text-anchor="end" fill="var(--muted)">${escape(written[i] ?? "")}</text>`),
    `<line x1="${left}" x2="${width - RIGHT}" y1="${foot}" y2="${foot}" stroke="var(--muted)"/>`,
    ...apart(across.ticks, px).map(({ at, text }) => `<line x1="${px(at)}" x2="${px(at)}" y1="${foot}" y2="${foot + 4}" stroke="var(--muted)"/><text x="${px(at)}" y="${foot + 17}" text-anchor="middle" fill="var(--muted)">${escape(text)}</text>`),
    `<text x="${n((left + width - RIGHT) / 2)}" y="${foot + 34}" text-anchor="middle" fill="var(--muted)">${escape(across.label)}</text>`,
    ...(up.level ? [`<line x1="${left}" x2="${width - RIGHT}" y1="${py(up.level.at)}" y2="${py(up.level.at)}" stroke="var(--bad)" stroke-width="1.5" stroke-dasharray="${LEVEL.join(" ")}"/>`] : []),
    ...curves,
    names.text,
    "</svg>",
  ].join("");
}

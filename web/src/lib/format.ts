// Numbers and times as people read them. Pure; the time is an argument.

const thin = "\u2009";

const sizes = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]] as const;
const sizeOf = (count: number) => sizes.find(([size]) => count >= size);

/** 16.4 M, 800.0 K, 12. */
export function tokens(count: number, digits = 1): string {
  const found = sizeOf(count);
  return found ? `${(count / found[0]).toFixed(digits)}${thin}${found[1]}` : String(Math.round(count));
}

/** Counts along an axis: in one unit, that of the largest, with as many digits as write them exactly: 0.98 M, 1.00 M. */
export function ticks(counts: number[]): string[] {
  const [size, unit] = sizeOf(Math.max(0, ...counts.map(Math.abs))) ?? [1, ""];
  if (size === 1) return counts.map((count) => String(Number(count.toPrecision(12))));
  const isExact = (digits: number) => (count: number) => {
    const scaled = (count / size) * 10 ** digits;
    return Math.abs(scaled - Math.round(scaled)) < 1e-6;
  };
  const digits = [0, 1, 2, 3, 4, 5].find((digits) => counts.every(isExact(digits))) ?? 6;
  return counts.map((count) => (count === 0 ? "0" : `${(count / size).toFixed(digits)}${thin}${unit}`));
}

/** Moments along an axis as a clock shows them, the day below the first of each: 15:20, 15:20:30. */
export function timeTicks(seconds: number[]): string[] {
  const two = (n: number) => String(n).padStart(2, "0");
  const hasSeconds = seconds.some((moment) => moment % 60 !== 0);
  let before = "";
  return seconds.map((moment) => {
    const date = new Date(moment * 1000);
    const day = `${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    const clock = `${two(date.getHours())}:${two(date.getMinutes())}${hasSeconds ? `:${two(date.getSeconds())}` : ""}`;
    const isNew = day !== before;
    before = day;
    return isNew ? `${clock}\n${day}` : clock;
  });
}

/** 41 200. */
export function whole(count: number): string {
  return Math.round(count).toString().replace(/\B(?=(\d{3})+(?!\d))/g, thin);
}

/** 1:05:09 or 3:20 or 12 s. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s}${thin}s`;
  const two = (n: number) => String(n).padStart(2, "0");
  const [h, m] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s % 60)}` : `${m}:${two(s % 60)}`;
}

/** How long ago, in the largest unit that it fills. */
export function ago(iso: string, now: number): { count: number; unit: "d" | "h" | "min" | "s" } {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]] as const) {
    if (seconds >= size) return { count: Math.floor(seconds / size), unit };
  }
  return { count: Math.floor(seconds), unit: "s" };
}

/** A figure, or a dash where it is absent: what stands on nothing is no 0. */
export function figure(value: number | null | undefined, digits: number): string {
  return value == null || !Number.isFinite(value) ? "–" : value.toFixed(digits);
}

/** +1.2 %, −3.0 %. */
export function percent(value: number): string {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}${thin}%`;
}

export function bytes(count: number): string {
  for (const [size, unit] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]] as const) {
    if (count >= size) return `${(count / size).toFixed(1)}${thin}${unit}`;
  }
  return `${count}${thin}B`;
}

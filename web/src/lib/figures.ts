// The figures of a report, in words: the routed ensemble over temperature and number of experts, and what a chain forgot. Pure.
import type { Report } from "./api";
import { colour, look } from "./curves";
import { forgettingCurves, labelOf, surfaceCurves, type Chain } from "./report";
import { ticksOf } from "./series";
import type { Figure, Series } from "./svg";
import type { Say } from "./tables";

const write = (values: number[]) => ticksOf("loss", values);

/** Loss over temperature, a curve for each number of experts: reported bold, calibration faint, the chosen place ringed. Null where no loss is. */
export function surfaceFigure(report: Report, say: Say): Figure | null {
  const curves = surfaceCurves(report.surface);
  const series = curves.flatMap(({ topK, points }, i): Series[] => {
    const stroke = colour(i);
    const chosen = points.flatMap((point): [number, number][] => (point.isChosen && point.reported !== null ? [[point.temperature, point.reported]] : []));
    const along = (half: "reported" | "calibration") => points.map((point): [number, number | null] => [point.temperature, point[half]]);
    const both: Series[] = [
      { name: `top ${topK}`, stroke, dash: [], points: along("reported"), marks: chosen },
      { name: say("calibrationOf", { what: `top ${topK}` }), stroke, dash: [4, 4], isFaint: true, points: along("calibration") },
    ];
    return both.filter((one) => one.points.some(([, value]) => value !== null));
  });
  if (series.length === 0) return null;
  const temperatures = [...new Set(report.surface.map((row) => row.temperature))].sort((a, b) => a - b);
  return {
    says: say("surfaceSays", { curves: curves.map(({ topK }) => `top ${topK}`).join(", ") }),
    x: { label: say("temperature"), isLog: temperatures.every((temperature) => temperature > 0), ticks: temperatures.map((at) => ({ at, text: String(at) })) },
    y: { label: say("loss"), write }, series,
  };
}

/** What a chain forgot of each domain, link by link, and the threshold from which on it counts. Null where there is nothing that it could have forgotten. */
export function forgettingFigure(report: Report, chain: Chain, say: Say, threshold: number): Figure | null {
  const curves = forgettingCurves(chain);
  if (curves.length === 0) return null;
  return {
    says: say("forgettingSays", { domains: curves.map(({ domain }) => `${domain} ${labelOf(report, domain)}`).join(", ") }),
    x: { label: say("afterLink"), ticks: chain.links.map((link, at) => ({ at, text: `${at}: ${link.domain}` })) },
    y: { label: say("forgotNats"), write, level: { at: threshold, text: say("thresholdIs", { value: threshold }) } },
    series: curves.map(({ domain, points }) => ({ name: `${domain} ${labelOf(report, domain)}`, stroke: look("expert", domain).stroke, dash: [], points: points.map(({ at, delta }): [number, number] => [at, delta]) })),
  };
}

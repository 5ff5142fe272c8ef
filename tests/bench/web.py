"""Writes the figures of target/bench/web.json into docs/BENCHMARKS.md and prints them."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"senmon": "Senmon", "tensorboard": "TensorBoard", "mlflow": "MLflow"}


def head(name: str, figures: dict) -> str:
    return f"{NAMES[name]} {figures['version']}" if "version" in figures else NAMES[name]


def seconds(ms: float) -> str:
    return f"{ms / 1000:.2f} s"


def table(report: dict) -> str:
    demo, wide = report["finished_demo"], report["wide"]
    shown = [name for name in NAMES if name in demo]
    rows = {
        "transferred": lambda figures: f"{figures['bytes'] / 1000:,.0f} KB",
        "requests": lambda figures: str(figures["requests"]),
        "first paint": lambda figures: seconds(figures["first_paint_ms"]),
        "chart drawn": lambda figures: seconds(figures["chart_ms"]),
        "longest task": lambda figures: f"{figures['longest_task_ms']:.0f} ms",
    }
    lines = [
        f"Chromium {report['chromium']}, headless, no GPU, 1440 × 900, {report['cores']} cores; medians of {report['times']}.",
        "",
        "A finished demo, 22 curves with 851 points in all, cache off:",
        "",
        "| | " + " | ".join(head(name, demo[name]) for name in shown) + " |",
        "| --- |" + " ---: |" * len(shown),
    ]
    lines += [f"| {row} | " + " | ".join(write(demo[name]) for name in shown) + " |" for row, write in rows.items()]
    pan, zoomed = wide["pan"], wide["pan_zoomed"]
    frames = lambda of: f"{of['per_second']:.0f} a second; median {of['ms_p50']:.1f} ms, 95 % within {of['ms_p95']:.1f} ms, worst {of['ms_max']:.0f} ms"
    lines += [
        "",
        f"{report['branches']} branches of {report['points_of_each']:,} points each, {wide['points_drawn']:,} of them drawn:",
        "",
        "| | |",
        "| --- | --- |",
        f"| first load: transferred, requests | {wide['bytes'] / 1000:,.0f} KB, {wide['requests']} |",
        f"| first paint | {seconds(wide['first_paint_ms'])} |",
        f"| chart drawn | {seconds(wide['chart_ms'])} |",
        f"| layout shift | {wide['layout_shift']:.3f} |",
        f"| frames while panning | {frames(pan)} |",
        f"| frames while panning, zoomed in | {frames(zoomed)} |",
    ]
    return "\n".join(lines)


def main() -> None:
    text = table(json.loads((ROOT / "target" / "bench" / "web.json").read_text()))
    print(text)
    page = ROOT / "docs" / "BENCHMARKS.md"
    begin, end = "<!-- web -->", "<!-- /web -->"
    before, rest = page.read_text().split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}")


main()

"""`make bench-gpu`: Senmon's training step on a card beside plain PyTorch's, eager and compiled, one after the other.

Same model, same batch, bf16, fused AdamW, clipping, one host read a step. Usage: gpu.py [CASE...]; PYTHON names the
interpreter that has PyTorch with CUDA. Writes target/bench/gpu.json and prints the table, which goes into
docs/BENCHMARKS.md where that page is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "bench"
OURS = ROOT / "target" / "release" / "examples" / "gpu"
PYTHON = os.environ.get("PYTHON", sys.executable)
DATA_SHEET = {"H100 80GB HBM3": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, FLOP/s
# Shape, windows, windows of a pass, tokens of a window, steps.
CASES = {
    "17m": ("small", 64, 64, 512, 30),
    "135m": ("smollm2-135m", 16, 16, 2048, 14),
    "1b": ("llama-1b", 8, 8, 2048, 12),
    "1b-passes-of-4": ("llama-1b", 8, 4, 2048, 12),
}


def last_line(command):
    """The JSON of the last line; None, and its words shown, where the contestant ends badly."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    print(f"bench: {command} ended with {done.returncode}: {done.stderr[-1500:]}", file=sys.stderr)
    return None


def command(case, name):
    shape, *sizes = CASES[case]
    config, sizes = str(HERE / "models" / f"{shape}.json"), [str(size) for size in sizes]
    if name == "senmon":
        return [str(OURS), "bench", config, "bf16", "fused", *sizes]
    return [PYTHON, str(HERE / "contestant_gpu.py"), config, name, *sizes]


def card():
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    name, driver, memory = subprocess.check_output(query, text=True).splitlines()[0].split(", ")
    return {"name": name, "driver": driver, "memory": memory}


def table(report):
    peak = next((rate for name, rate in DATA_SHEET.items() if name in report["card"]["name"]), None)
    torch = next((c["compile"]["torch"] for c in report["cases"] if c.get("compile")), "without PyTorch")
    lines = [
        f"{report['card']['name']}, driver {report['card']['driver']}, PyTorch {torch}, bf16, {report['when']};"
        " medians of the later two thirds of the steps of one run each.",
        "",
        "| model, batch | tokens/s | × eager | × compile | MFU, data sheet | of measured peak | memory GiB | eager's | compile's |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in report["cases"]:
        ours, (windows, micro, length) = case.get("senmon"), case["sizes"][:3]
        if not ours:
            continue
        rate = ours["tokens_per_second"]
        times = [f"{rate / case[o]['tokens_per_second']:.2f}" if case.get(o) else "–" for o in ("eager", "compile")]
        memory = [f"{case[o]['memory_gib']:.1f}" if case.get(o) else "–" for o in ("eager", "compile")]
        mfu = f"{100 * ours['tflops'] * 1e12 / peak:.1f} %" if peak else "–"
        passes = "" if micro == windows else f", passes of {micro}"
        lines.append(
            f"| {case['shape']} ({ours['parameters'] / 1e6:,.0f} M), {windows} × {length}{passes} | {rate:,.0f} | {times[0]}"
            f" | {times[1]} | {mfu} | {100 * ours['tflops'] / ours['matmul_peak_tflops']:.1f} % | {ours['memory_gib']:.1f}"
            f" | {memory[0]} | {memory[1]} |"
        )
    return "\n".join(lines)


def main():
    when = subprocess.check_output(["date", "-u", "+%F"], text=True).strip()
    report = {"card": card(), "when": when, "cases": []}
    out = ROOT / "target" / "bench" / "gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    for case in sys.argv[1:] or CASES:
        shape, *sizes = CASES[case]
        report["cases"].append({"case": case, "shape": shape, "sizes": sizes})
    # What the others are measured against last: a run that is cut short has what matters.
    for names in (["senmon", "compile"], ["eager"]):
        for result in report["cases"]:
            for name in names:
                result[name] = last_line(command(result["case"], name))
                print(f"bench: {result['case']} {name}: {json.dumps(result[name])}", file=sys.stderr, flush=True)
                out.write_text(json.dumps(report, indent=1) + "\n")
    text = table(report)
    print(text)
    page = ROOT / "docs" / "BENCHMARKS.md"
    if page.exists():
        begin, end = "<!-- gpu -->", "<!-- /gpu -->"
        head, rest = page.read_text().split(begin)
        page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


main()

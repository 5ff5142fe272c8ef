"""`make bench-train`: Senmon's training step beside plain PyTorch's, eager and compiled, on this machine.

All contestants of a case are loaded at once and take turns, so that what else the machine does hits all alike.
Same model, same batch, same fused AdamW and clipping, same allocator settings. Writes target/bench/train.json and the
table of docs/BENCHMARKS.md.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "bench"
REPETITIONS = int(os.environ.get("BENCH_REPETITIONS", "5"))
THREADS = int(os.environ.get("BENCH_THREADS", "2"))
# Shape, windows, tokens of a window.
CASES = [("small", 8, 256), ("wide-vocabulary", 8, 256), ("smollm2-135m", 2, 256)]
# What the worker sets for itself (worker/engine/src/tune.rs), for everybody.
ALLOCATOR = ":".join(
    f"glibc.malloc.{key}={value}"
    for key, value in [
        ("mmap_threshold", 4294967296),
        ("trim_threshold", 4294967296),
        ("top_pad", 67108864),
        ("hugetlb", 1),
        ("arena_max", 1),
    ]
)


class Contestant:
    def __init__(self, command):
        settings = {"GLIBC_TUNABLES": ALLOCATOR, "OMP_NUM_THREADS": str(THREADS), "PYTHONWARNINGS": "ignore"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=os.environ | settings)
        self.about = self.read()
        self.runs = []

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench: {self.process.args} ended with {self.process.wait()}")
        return json.loads(line)

    def run(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def contestants(shape, precision, windows, length):
    config = str(HERE / "models" / f"{shape}.json")
    sizes = [str(windows), str(length), str(THREADS)]
    ours = str(ROOT / "target" / "release" / "examples" / "bench_train")
    python = [str(ROOT / ".deps" / "interop" / "bin" / "python"), str(HERE / "contestant.py")]
    return {
        "senmon": Contestant([ours, config, precision, "fused", *sizes]),
        "eager": Contestant([*python, config, precision, "eager", *sizes]),
        "compile": Contestant([*python, config, precision, "compile", *sizes]),
    }


def measure(shape, precision, windows, length):
    field = contestants(shape, precision, windows, length)
    for contestant in field.values():
        for _ in range(2):  # compilation, and the allocator's first pages
            contestant.run()
    for _ in range(REPETITIONS):
        for contestant in field.values():
            contestant.runs.append(contestant.run())
    tokens = windows * length
    about = field["senmon"].about
    result = {
        "shape": shape,
        "precision": precision,
        "windows": windows,
        "length": length,
        "parameters": about["parameters"],
        "matmul_peak_flops": about["matmul_peak"],
    }
    seconds = {name: [statistics.median(run["seconds"]) for run in c.runs] for name, c in field.items()}
    for name, contestant in field.items():
        rate = tokens / statistics.median(seconds[name])
        result[name] = {
            "tokens_per_second": rate,
            "share_of_matmul_peak": rate * about["flops_per_token"] / about["matmul_peak"],
            "peak_bytes": contestant.runs[-1]["peak_bytes"],
            "seconds": seconds[name],
            "loss": contestant.runs[-1]["loss"],
        }
        contestant.close()
    split = [run["split"] for run in field["senmon"].runs]
    whole = sum(sum(part.values()) for part in split)
    result["senmon"]["split"] = {part: sum(s[part] for s in split) / whole for part in split[0]}
    for other in ["eager", "compile"]:
        # The same repetition of both: what slowed one slowed the other.
        pairs = zip(seconds[other], seconds["senmon"])
        result[f"times_{other}"] = statistics.median(theirs / ours for theirs, ours in pairs)
        result[f"memory_of_{other}"] = result["senmon"]["peak_bytes"] / result[other]["peak_bytes"]
    return result


def machine():
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpu)
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag}" in cpu]
    return {"cpu": model[1] if model else platform.machine(), "cores": os.cpu_count(), "threads": THREADS, "flags": flags}


def table(report):
    m = report["machine"]
    lines = [
        f"{m['cpu']}, {m['threads']} of {m['cores']} cores ({', '.join(m['flags'])}); PyTorch {report['torch']};"
        f" medians of {REPETITIONS} interleaved repetitions.",
        "",
        "| model | precision | tokens/s | × eager | × compile | of matmul peak | peak memory | of eager's | of compile's |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for case in report["cases"]:
        ours = case["senmon"]
        lines.append(
            f"| {case['shape']} ({case['parameters'] / 1e6:.0f} M), {case['windows']} × {case['length']} | {case['precision']}"
            f" | {ours['tokens_per_second']:,.0f} | {case['times_eager']:.2f} | {case['times_compile']:.2f}"
            f" | {100 * ours['share_of_matmul_peak']:.0f} % | {ours['peak_bytes'] / 2**20:,.0f} MiB"
            f" | {case['memory_of_eager']:.2f} | {case['memory_of_compile']:.2f} |"
        )
    parts = list(report["cases"][0]["senmon"]["split"])
    lines += ["", "Where Senmon's step goes:", "", "| model | precision | " + " | ".join(parts) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(parts))
    for case in report["cases"]:
        shares = " | ".join(f"{100 * case['senmon']['split'][part]:.0f} %" for part in parts)
        lines.append(f"| {case['shape']} | {case['precision']} | {shares} |")
    return "\n".join(lines)


def main():
    version = [str(ROOT / ".deps" / "interop" / "bin" / "python"), "-W", "ignore", "-c", "import torch; print(torch.__version__)"]
    report = {"machine": machine(), "torch": subprocess.check_output(version, text=True).strip(), "cases": []}
    for shape, windows, length in CASES:
        for precision in ["fp32", "bf16"]:
            print(f"bench: {shape}, {precision} ...", file=sys.stderr, flush=True)
            report["cases"].append(measure(shape, precision, windows, length))
    out = ROOT / "target" / "bench" / "train.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    text = table(report)
    print(text)
    page = ROOT / "docs" / "BENCHMARKS.md"
    begin, end = "<!-- train -->", "<!-- /train -->"
    head, rest = page.read_text().split(begin)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


main()

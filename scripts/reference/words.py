"""docs/reference/{metrics,events,exit-codes}.md: the words that scripts read, from where the code says them."""

import json
import re
from pathlib import Path

from rust import Source, snake
from text import page, table

# The first part of a metric's name, in the order of the page.
GROUPS = ["train", "held_out", "throughput", "time", "memory", "device"]


def metrics(root: Path) -> str:
    worker = "".join(file.read_text() for file in sorted((root / "worker/engine/src").rglob("*.rs")))
    named = re.findall(rf'"((?:{"|".join(GROUPS)})/[\w/{{}}]+)"', worker)
    names = sorted({re.sub(r"\{\w+\}", "N", name) for name in named}, key=lambda name: (GROUPS.index(name.split("/")[0]), name))
    shown = dict(re.findall(r'"metric_([^"]+)": \["([^"]+)"', (root / "web/src/lib/messages.ts").read_text()))
    if set(names) != set(shown):
        raise SystemExit(f"reference: worker and dashboard differ in the metrics {sorted(set(names) ^ set(shown))}")
    only = {"device/memory_bytes": "GPU", "device/utilisation": "GPU, where the driver says", "throughput/mfu_data_sheet": "GPU that is known"}
    points = [[f"`{name}`", shown[name].replace("{n}", "N"), only.get(name, "any")] for name in names]
    health = (root / "server/src/api/health.rs").read_text()
    gauges = re.findall(r'\("(senmon_\w+)", "([^"]+)",', health)
    for name, help_text in re.findall(r'let name = "(senmon_\w+)";\s+let _ = writeln!\(text, "# HELP \{name\} ([^\\]+)\\n', health):
        labels = ", ".join(re.findall(name + r"|(\w+)=\\\"", health[health.index(name) :].split("writeln!(text, \"{name}", 1)[1].split("}}", 1)[0]))
        gauges.append((f"{name}{{{labels}}}".replace("{, ", "{"), help_text))
    parts = [
        """## Of a branch

Each worker reports them every `training.log_every_steps` steps; the dashboard draws them, `GET /api/v1/branches/{id}/metrics?keys=train/loss,…` gives them out, and so does [the Python package](../../server/python/README.md).
A value that is not finite is `null`. Shares are 0 to 1. Utilisation (MFU) is that of the model's own operations: the first against a matrix product measured when the branch starts, the second against the data sheet.""",
        table(["name", "what it is", "device"], points),
        """## Of the service

`GET /metrics`, in the text format of Prometheus, with a token that may read (`senmon token create prometheus --role viewer`). All are gauges: a step that counted as productive becomes a wasted one when a resume takes it back.""",
        table(["name", "what it is"], [[f"`{name}`", text] for name, text in gauges]),
        "The causes of `senmon_slot_seconds_last_hour` are those of `senmon goodput`:",
        table(["cause", "counts as", "time that goes into"], causes(root)),
    ]
    return page("Metrics", "worker/engine/src, server/src/api/health.rs and web/src/lib/messages.ts", parts)


def causes(root: Path) -> list[list[str]]:
    source = Source([root / "server/protocol/src/goodput.rs"])
    good = re.search(r"fn is_goodput\(self\) -> bool \{(.*?)\n    \}", source.text, re.S)[1]
    rows = []
    for item in source.declarations["TimeCause"].items:
        is_good = re.search(rf"\b{item.name}\b", good) is not None
        rows.append([f"`{snake(item.name)}`", "goodput" if is_good else "badput", item.doc])
    return rows


def events(root: Path) -> str:
    text = (root / "server/protocol/src/event.rs").read_text()
    listed = re.search(r"pub const EVENTS.*?= &\[(.*?)\n\];", text, re.S)[1]
    rows = re.findall(r'\(\s*"(\w+)",\s*"([\w ]+)",\s*"([^"]+)",?\s*\)', listed)
    files = [file for folder in ("server/src", "worker/src", "worker/engine/src") for file in sorted((root / folder).rglob("*.rs"))]
    code = "".join(file.read_text() for file in files)
    said = set(re.findall(r'\bkind: "(\w+)"(?:,|\.into)', code))
    said |= set(re.findall(r'context\s*\.(?:event|leaves_out)\(\s*"(\w+)"', code))
    said |= set(re.findall(r'event\(&?held, "(\w+)"', code))
    known = {kind for kind, _, _ in rows}
    stale = {kind for kind in known if f'"{kind}"' not in code}
    if said - known or stale:
        raise SystemExit(f"reference: protocol::event lacks {sorted(said - known)}, and nobody says {sorted(stale)}")
    parts = [
        """What happened, one sentence each. `senmon events` lists them, `GET /api/v1/events` gives them page by page, `GET /api/v1/stream` as they come; those with a step stand on the axis of the branch's curve.
An event has a `kind` from this list, a `level`, a sentence for people, and the experiment, branch, worker and step that it is about. Kinds stay; sentences may change.""",
        table(["kind", "level", "when"], [[f"`{kind}`", level, about] for kind, level, about in rows]),
    ]
    return page("Events", "server/protocol/src/event.rs", parts)


def exit_codes(root: Path) -> str:
    error = (root / "server/cli/src/error.rs").read_text()
    cli = re.findall(r"/// (\d+): ([^\n]+)\n\s+\w+\(String\)", error)
    if sorted(code for code, _ in cli) != sorted(re.findall(r"Self::\w+\(_\) => (\d+)", error)):
        raise SystemExit("reference: cli/src/error.rs says other codes than it gives")
    rows = [["0", "done"], *sorted(([code, text.rstrip(".")] for code, text in [*cli, ("2", "wrong usage: an unknown command or flag")]), key=lambda row: int(row[0]))]
    source = Source([root / "server/protocol/src/outcome.rs"])
    said = json.loads((root / "server/protocol/messages/ends.json").read_text())
    users = set(re.findall(r"Self::(\w+)", function(source.text, "is_users_fault")))
    planned = set(re.findall(r"Self::(\w+)", function(source.text, "is_planned")))
    ends = []
    for item in source.declarations["TerminationReason"].items:
        pays = "nobody: planned" if item.name in planned else "the experiment" if item.name in users else "the infrastructure"
        ends.append([f"`{snake(item.name)}`", item.doc, pays, said[f"advice_{snake(item.name)}"]["en"]])
    parts = [
        "## `senmon`",
        table(["code", "means"], rows),
        "`run --follow`, `follow` and `wait` end with 1 when the experiment fails, or ends in another state than it was waited for; `plan` with 4 when the file would be refused; `checkpoint verify` with 1 when a file differs.",
        "## `senmon-server` and `senmon-worker`",
        table(
            ["code", "means"],
            [
                ["0", "stopped as asked (SIGTERM, SIGINT), or the command is done"],
                ["1", "it could not start or go on; the last line on standard error names the key, file or address"],
                ["2", "wrong usage: an unknown command or flag"],
                ["130", "`senmon-worker` alone: it was told twice to stop, and what was not delivered lies in its spool"],
            ],
        ),
        "## How attempts end\n\n`senmon branch show` and the events give the reason. Faults of the experiment count against its `max_restarts`, the others against a budget of the infrastructure; what is planned counts against neither.",
        table(["reason", "what it is", "who pays", "advice"], ends),
    ]
    return page("Exit codes", "server/cli/src/error.rs and server/protocol/src/outcome.rs", parts)


def function(text: str, name: str) -> str:
    return re.search(rf"fn {name}\(self\)[^{{]*\{{(.*?)\n    \}}", text, re.S)[1]

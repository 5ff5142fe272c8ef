"""Writes the pages of docs/reference into a folder, from the code: python3 scripts/reference FOLDER [PROGRAMS].

PROGRAMS is the folder with senmon, senmon-server and senmon-worker, whose --help is a page; without it that one is left
out. Standard library alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import api
import commands
import experiment
import settings
import words

ROOT = Path(__file__).resolve().parents[2]


def pages(programs: Path | None) -> dict[str, str]:
    made = {
        "experiment-file.md": experiment.Page(ROOT).text(),
        "server-configuration.md": settings.server(ROOT),
        "worker-configuration.md": settings.worker(ROOT),
        "api.md": api.text(ROOT),
        "metrics.md": words.metrics(ROOT),
        "events.md": words.events(ROOT),
        "exit-codes.md": words.exit_codes(ROOT),
    }
    if programs:
        made["command-line.md"] = commands.text(programs)
    return made


if __name__ == "__main__":
    folder, programs = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages(programs).items():
        (folder / name).write_text(text)

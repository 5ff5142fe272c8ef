"""docs/reference/command-line.md: what senmon, senmon-server and senmon-worker say of themselves with --help."""

import os
import re
import subprocess
from pathlib import Path

from text import page

INTRO = """Three programs: `senmon` for people and scripts, `senmon-server` and `senmon-worker` for machines. What they print with `--help`, command by command.
The flags that every command of a program knows stand with the program alone. [Exit codes](exit-codes.md) are stable."""


def text(programs: Path) -> str:
    parts = [INTRO]
    for program in ("senmon", "senmon-server", "senmon-worker"):
        parts += sections(programs / program, [program], set())
    return page("The command line", "the programs' --help", parts)


def sections(binary: Path, words: list[str], known: set[str]) -> list[str]:
    said = help_of(binary, words[1:])
    options = blocks(said)
    shown = "\n".join(headed(list(without(said, options, known)))).strip()
    parts = [f"{'#' * min(len(words) + 1, 4)} `{' '.join(words)}`", f"```\n{shown}\n```"]
    inherited = known | {name for name in options if len(words) == 1}
    for command in commands(said):
        parts += sections(binary, [*words, command], inherited)
    return parts


def help_of(binary: Path, words: list[str]) -> str:
    """Without the environment, whose values clap would show, and at one width."""
    environment = {"PATH": os.environ.get("PATH", ""), "COLUMNS": "100", "HOME": "/nowhere"}
    done = subprocess.run([binary, *words, "--help"], env=environment, capture_output=True, text=True, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def commands(said: str) -> list[str]:
    found = re.search(r"^Commands:\n((?:  .*\n|\n)+)", said + "\n", re.M)
    names = re.findall(r"^  ([a-z-]+)", found[1], re.M) if found else []
    return [name for name in names if name != "help"]


def blocks(said: str) -> set[str]:
    """The options by their long names."""
    return set(re.findall(r"^\s+(?:-\w, )?--([\w-]+)", said, re.M))


def headed(lines: list[str]):
    """The lines, without headings that nothing stands below."""
    for number, line in enumerate(lines):
        below = next((other for other in lines[number + 1 :] if other.strip()), "")
        if re.fullmatch(r"[A-Z][a-z ]+:", line) and not below.startswith(" "):
            continue
        yield line


def without(said: str, options: set[str], known: set[str]):
    """The lines, without options that were shown with the program, and without what clap says of help itself."""
    skips = False
    for line in said.splitlines():
        option = re.match(r"^\s+(?:-\w, )?(?:    )?--([\w-]+)", line)
        if option:
            skips = option[1] in known or option[1] == "help"
        elif not line.startswith("   ") and line.strip():
            skips = False
        if re.match(r"^  help\s+Print this message", line):
            continue
        if not skips:
            yield line

"""docs/reference/{server,worker}-configuration.md: configs/*.toml as tables. The files are what people copy; that every
key of the types stands in them, and no other, is checked here; that the server's values are the defaults, by a test."""

import re
import textwrap
from pathlib import Path

from rust import Source
from text import page, table

KEY = re.compile(r"^(# )?([a-z_0-9]+) = (.*?)(?:\s+#.*)?$")


def server(root: Path) -> str:
    source = Source([root / "server/src/config.rs", root / "server/store/src/url.rs"])
    fields = [item.name for item in source.declarations["Config"].items if "skip" not in item.serde]
    keys = {name for name in fields if name not in ("retention", "s3")}
    keys |= {f"retention.{item.name}" for item in source.declarations["Retention"].items}
    keys |= {f"s3.{item.name}" for item in source.declarations["S3Settings"].items}
    intro = """One TOML file, given with `--config FILE` or `SENMON_CONFIG`. Flags win over `SENMON_*` variables ([command line](command-line.md)), those over the file, the file over defaults; an unknown key is refused by name.
`senmon-server --config FILE check-config` checks a file and prints every setting. The file to copy: [configs/server.toml](../../configs/server.toml)."""
    return made(root, "server", keys, intro)


def worker(root: Path) -> str:
    source = Source([root / "worker/src/config.rs", root / "server/store/src/url.rs"])
    listed = re.search(r"const KEYS: \[&str; \d+\] = \[(.*?)\];", source.text, re.S)
    keys = set(re.findall(r'"(\w+)"', listed[1])) - {"s3", "labels"}
    keys |= {f"s3.{item.name}" for item in source.declarations["S3Settings"].items}
    keys |= {"labels.rack"}  # an example: labels are free
    intro = """One TOML file, given with `--config FILE` or `SENMON_WORKER_CONFIG`. Flags win over variables (`SENMON_WORKER_` and a key in capitals; lists and tables as in TOML), those over the file, the file over defaults; an unknown key or variable is refused by name.
`senmon-worker --config FILE doctor` checks a file and what the machine has. The file to copy: [configs/worker.toml](../../configs/worker.toml)."""
    return made(root, "worker", keys, intro)


def made(root: Path, name: str, keys: set[str], intro: str) -> str:
    tables = read((root / f"configs/{name}.toml").read_text())
    found = {f"{section}.{key}".strip(".") for section, _, groups in tables for group, _ in groups for key, _, _ in group}
    if found != keys:
        raise SystemExit(f"reference: configs/{name}.toml and the type differ in {sorted(found ^ keys)}")
    parts = [intro]
    for section, about, groups in tables:
        if section:
            parts.append(f"## [{section}]")
            parts.append(re.sub(r"docs/([\w/.-]+\.md)", r"[docs/\1](../\1)", about))
        rows = [row(group, comment) for group, comment in groups]
        parts.append(table(["key", "default" if name == "server" else "as shipped", "what it is, and why"], rows))
    return page(f"{name.capitalize()} configuration", f"configs/{name}.toml", [part for part in parts if part])


def row(group: list[tuple[str, str, bool]], comment: str) -> list[str]:
    def default(key: str, value: str, commented: bool) -> str:
        return "not set" if commented else f"`{value}`"

    examples = [f"`{key} = {value}`" for key, value, commented in group if commented and "…" not in value]
    comment = re.sub(r"docs/([\w/.-]+\.md)", r"[docs/\1](../\1)", comment)
    text = comment + (f" Example: {', '.join(examples)}." if examples else "")
    return [
        "<br>".join(f"`{key}`" for key, _, _ in group),
        "<br>".join(default(*entry) for entry in group),
        text,
    ]


def read(text: str):
    """Sections, each with the comment above it and its groups: keys that stand together, and the comment above them."""
    tables, comment, group = [("", "", [])], [], []
    lines = iter(textwrap.dedent(text).splitlines())
    for line in lines:
        found = KEY.match(line)
        if line.startswith("["):
            tables.append((line.strip("[]"), " ".join(comment), []))
            comment, group = [], []
        elif found:
            value = found[3]
            while value.count("[") > value.count("]"):
                value += " " + next(lines).strip()
            entry = (found[2], value, bool(found[1]))
            groups = tables[-1][2]
            if comment:
                group = [entry]
                groups.append((group, " ".join(comment)))
                comment = []
            elif group and group[0][0] == entry[0]:
                group[0] = (entry[0], entry[1], entry[2] and group[0][2])  # an example first, then the default
            elif group:
                group.append(entry)
            else:
                group = [entry]
                groups.append((group, ""))
        elif line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
            group = []
        else:
            # The head of the file belongs to no key.
            comment = [] if tables == [("", "", [])] else comment
            group = []
    return tables

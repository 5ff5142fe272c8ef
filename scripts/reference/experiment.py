"""docs/reference/experiment-file.md: every key of the experiment file, from the types that read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rust import Declaration, Item, Source, word
from text import link, page, table

ROOT = "ExperimentSpec"
FILES = ["spec", "training", "model", "clustering", "resources", "storage", "tokens"]
WORDS = {
    "String": "text",
    "bool": "true or false",
    "Tokens": "tokens",
    "u8": "integer",
    "u16": "integer",
    "u32": "integer",
    "u64": "integer",
    "f64": "number",
    "DateTime<Utc>": "time, as `2027-01-31T08:00:00Z`",
    "BTreeMap<String, String>": "names with text",
    "BTreeMap<u32, f64>": "domain numbers with weights",
}
REQUIRED = "must be given"
ZERO = {"bool": "`false`", "String": '`""`', "f64": "`0`", "u32": "`0`", "u64": "`0`"}

INTRO = """`senmon run FILE` submits this file, `senmon plan FILE` says what it would do. YAML, or the same keys in JSON, up to 256 KiB.
An unknown key is refused with its path; all faults of a file are named at once.

Token counts are integers or text with a power of 1,000: `800K`, `6.5M`, `42B`. Paths are on the server's disk, inside its `corpus_roots`.
Files to begin with: [configs/experiments](../../configs/experiments). What to choose and why: [choosing k, tokens and temperature](../explanation/choosing.md)."""


class Page:
    def __init__(self, root: Path):
        self.source = Source([root / f"server/protocol/src/{name}.rs" for name in FILES])
        self.schemas = json.loads((root / "server/openapi.json").read_text())["components"]["schemas"]
        self.sections: list[str] = []
        self.headings: dict[str, str] = {}

    def declaration(self, name: str) -> Declaration:
        return self.source.declarations[name]

    def text(self) -> str:
        self.collect(ROOT, "")
        for name, heading in self.headings.items():
            self.sections.append(self.section(name, heading))
        return page("The experiment file", "server/protocol/src", [INTRO, *self.sections])

    def collect(self, name: str, path: str, tag: str | None = None) -> None:
        """Gives each type below `name` a heading, in the order of the file."""
        declaration = self.declaration(name)
        if name in self.headings:
            return
        if declaration.kind == "struct":
            where = "training of a seed or a group" if name == "TrainingOverride" else path
            self.headings[name] = f"{where}, {tag}" if tag else where or "The top level"
            for item in declaration.items:
                inner = bare(item.type)
                if inner in self.source.declarations:
                    self.collect(inner, f"{path}.{item.name}".strip(".") + ("[]" if "Vec<" in item.type else ""))
        elif declaration.tag:
            for item in declaration.items:
                self.collect(item.type, path, f"{declaration.tag}: {word(declaration, item)}")

    def section(self, name: str, heading: str) -> str:
        declaration = self.declaration(name)
        self.compare(declaration)
        rows = [[f"`{item.name}`", self.type_of(item), self.default(declaration, item), self.doc(item)] for item in declaration.items]
        about = "" if "[`" in declaration.doc else declaration.doc
        parts = [f"## {heading}", about.replace("  ", "\n\n"), table(["key", "type", "default", "what it is"], rows)]
        for item in declaration.items:
            inner = self.source.declarations.get(bare(item.type))
            if inner and inner.kind == "enum" and not inner.tag and not name.endswith("Override"):
                values = [[f"`{word(inner, value)}`", self.plain(value.doc)] for value in inner.items]
                parts.append(table([f"`{item.name}`", "means"], values))
        return "\n\n".join(part for part in parts if part)

    def type_of(self, item: Item) -> str:
        inner = bare(item.type)
        declaration = self.source.declarations.get(inner)
        if declaration and declaration.kind == "struct":
            words = link(self.headings[inner])
        elif declaration and declaration.tag:
            words = f"one `{declaration.tag}` of " + ", ".join(
                link(self.headings[variant.type], f"`{word(declaration, variant)}`") for variant in declaration.items
            )
        elif declaration:
            words = ", ".join(f"`{word(declaration, variant)}`" for variant in declaration.items)
        elif inner in WORDS:
            words = WORDS[inner]
        else:
            raise SystemExit(f"reference: {item.name}: no words for the type {item.type}")
        if "Vec<" not in item.type:
            return words
        return f"list, each {words}" if words.startswith("one ") else f"list of {words}"

    def default(self, declaration: Declaration, item: Item) -> str:
        named = re.search(r'default = "(\w+)"', item.serde)
        if named:
            return f"`{self.source.function(named[1]).replace('_', '')}`" if named[1] != "yes" else "`true`"
        whole = re.search(r"\bdefault\b", declaration.serde)
        if not whole and not re.search(r"\bdefault\b", item.serde):
            return REQUIRED if not item.type.startswith("Option<") else "none"
        if item.type.startswith("Option<"):
            return "none"
        if whole:
            return shown(self.schema_of(declaration)["properties"][item.name].get("default"))
        inner = self.source.declarations.get(item.type)
        if inner and inner.kind == "enum" and not inner.tag:
            first = next(variant for variant in inner.items if "default" in variant.attributes)
            return f"`{word(inner, first)}`"
        if inner:
            return "as below"
        return "empty" if "Vec<" in item.type or "BTreeMap" in item.type else ZERO[item.type]

    def doc(self, item: Item) -> str:
        return self.plain(item.doc)

    def plain(self, text: str) -> str:
        """Rust's links between types as links on the page."""
        training = self.headings.get("TrainingSpec", "training")
        text = re.sub(r"\[`TrainingSpec::(\w+)`\]", lambda found: link(training, f"`{found[1]}`"), text)
        return re.sub(r"\[`(?:\w+::)?(\w+)`\](?!\()", r"`\1`", text)

    def schema_of(self, declaration: Declaration) -> dict:
        """The type as openapi.json has it; variants of tagged enums stand inside their enum there."""
        if declaration.name in self.schemas and "properties" in self.schemas[declaration.name]:
            return self.schemas[declaration.name]
        for outer in self.source.declarations.values():
            for number, variant in enumerate(outer.items):
                if outer.kind == "enum" and variant.type == declaration.name:
                    return self.schemas[outer.name]["oneOf"][number]
        raise SystemExit(f"reference: openapi.json has no {declaration.name}")

    def compare(self, declaration: Declaration) -> None:
        """What was read here must be what the server's own description says."""
        schema = self.schema_of(declaration)
        tags = {"kind", "rope_type"} - {item.name for item in declaration.items}
        theirs, required = set(schema["properties"]) - tags, set(schema.get("required", [])) - tags
        ours = {item.name for item in declaration.items}
        if ours != theirs:
            raise SystemExit(f"reference: {declaration.name}: the sources and openapi.json differ in {sorted(ours ^ theirs)}; make openapi")
        must = {item.name for item in declaration.items if self.default(declaration, item)== REQUIRED}
        if must != required:
            raise SystemExit(f"reference: {declaration.name}: of the required keys, the sources and openapi.json differ in {sorted(must ^ required)}")


def bare(text: str) -> str:
    """The type inside Option and Vec."""
    while found := re.fullmatch(r"(?:Option|Vec)<(.+)>", text):
        text = found[1]
    return text


def shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "empty" if not value else "as below"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"

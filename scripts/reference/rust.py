"""Reads structs, enums and their serde defaults out of Rust sources. Plain declarations alone; anything it does not
understand is an error, so that a page is never half true. What it reads is held against openapi.json by experiment.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Item:
    """A field of a struct or a variant of an enum."""

    name: str
    type: str
    doc: str
    attributes: list[str]

    @property
    def serde(self) -> str:
        return " ".join(a for a in self.attributes if a.startswith("serde"))


@dataclass
class Declaration:
    """A struct or an enum."""

    kind: str
    name: str
    doc: str
    attributes: list[str]
    items: list[Item] = field(default_factory=list)

    @property
    def serde(self) -> str:
        return " ".join(a for a in self.attributes if a.startswith("serde"))

    @property
    def tag(self) -> str | None:
        found = re.search(r'tag = "(\w+)"', self.serde)
        return found and found[1]


class Source:
    """Declarations, constants and default functions of some files."""

    def __init__(self, files: list[Path]):
        self.text = "\n".join(file.read_text().split("#[cfg(test)]\nmod tests")[0] for file in files)
        self.declarations = {found.name: found for found in declarations(self.text)}

    def constant(self, name: str) -> str:
        found = re.search(rf"const {name}: [^=]+= ([^;]+);", self.text)
        if not found:
            raise SystemExit(f"reference: found no constant {name} in the sources")
        return found[1]

    def function(self, name: str) -> str:
        """The value of a default function: a literal, a constant, or text."""
        found = re.search(rf"fn {name}\(\) -> [^{{]+\{{\s*([^{{}}]+?)\s*\}}", self.text)
        if not found:
            raise SystemExit(f"reference: found no plain function {name} in the sources")
        value = found[1].removesuffix(".into()").removesuffix(".to_owned()")
        return self.constant(value) if value.isupper() else value


def declarations(text: str) -> list[Declaration]:
    found, doc, attributes, current = [], [], [], None
    for line in joined(text):
        stripped = line.strip()
        if stripped.startswith("///"):
            doc.append(stripped[3:].strip())
        elif stripped.startswith("#["):
            attributes.append(stripped[2:].rsplit("]", 1)[0])
        elif begin := re.match(r"(?:pub )?(struct|enum) (\w+) \{$", stripped):
            current = Declaration(begin[1], begin[2], paragraph(doc), attributes)
            found.append(current)
            doc, attributes = [], []
        elif current and line == "}":
            current, doc, attributes = None, [], []
        elif current:
            if item := re.match(r"(?:pub )?(\w+): (.+),$", stripped):
                current.items.append(Item(item[1], item[2], paragraph(doc), attributes))
            elif item := re.match(r"(\w+)(?:\((.+)\))?,$", stripped):
                current.items.append(Item(item[1], item[2] or "", paragraph(doc), attributes))
            doc, attributes = [], []
        elif stripped:
            doc, attributes = [], []
    return found


def joined(text: str):
    """Lines, with attributes that go over several lines as one."""
    kept = ""
    for line in text.splitlines():
        kept = f"{kept} {line.strip()}" if kept else line
        is_open = kept.strip().startswith("#[") and kept.count("[") > kept.count("]")
        if not is_open:
            yield kept
            kept = ""


def paragraph(doc: list[str]) -> str:
    return " ".join(doc).strip()


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def word(declaration: Declaration, item: Item) -> str:
    """What a variant is called in files."""
    renamed = re.search(r'rename = "([^"]+)"', item.serde)
    if renamed:
        return renamed[1]
    rule = re.search(r'rename_all = "([^"]+)"', declaration.serde)
    if not rule:
        return item.name
    return {"snake_case": snake(item.name), "lowercase": item.name.lower(), "kebab-case": snake(item.name).replace("_", "-")}[rule[1]]

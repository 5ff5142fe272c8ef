"""Perl's POD to paragraphs."""

import re

CODE = re.compile(r"[BCFILSEXZ]<(?:<+ )?((?:[^<>]|<[^<>]*>)*?)(?: >+)?>")
ENTITY = {"E<lt>": "<", "E<gt>": ">", "E<sol>": "/", "E<verbar>": "|"}


def inline(text):
    for escape, plain in ENTITY.items():
        text = text.replace(escape, "\x01" if plain == "<" else "\x02" if plain == ">" else plain)
    text = re.sub(r"[XZ]<[^>]*>", "", text)
    text = re.sub(r"[BCFILS]<< (.*?) >>", lambda m: m[1].replace("<", "\x01").replace(">", "\x02"), text, flags=re.S)
    for _ in range(3):  # nested three deep at most
        text = re.sub(r"L<([^<>|]*)\|[^<>]*>", r"\1", text)
        text = re.sub(r"[BCFILSE]<([^<>]*)>", r"\1", text)
    return text.replace("\x01", "<").replace("\x02", ">")


def paragraphs(page):
    """Paragraphs of a POD file given as bytes; verbatim blocks keep their lines."""
    out, inside = [], False
    for block in re.split(r"\n[ \t]*\n", page.decode("utf-8", "replace").replace("\r", "")):
        block = block.strip("\n")
        command = re.match(r"=(\w+)\s*(.*)", block, re.S)
        if command:
            name, rest = command.groups()
            inside = name not in ("cut", "begin")
            if name.startswith("head") or (name == "item" and len(rest) > 2):
                out.append(inline(rest).replace("\n", " ").strip())
        elif inside and block.strip():
            out.append(block if block[0] in " \t" else re.sub(r"\s+", " ", inline(block)).strip())
    return [p for p in out if p]

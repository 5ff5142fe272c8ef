"""Python modules to blocks: split at blank lines, indentation kept, licence headers left out."""

import re


def paragraphs(module):
    """Blocks of a module given as bytes."""
    text = module.decode("utf-8", "replace")
    blocks = [b.strip("\n") for b in re.split(r"\n[ \t]*\n", text)]
    is_notice = re.compile(r"(?i)copyright|licen[cs]e|all rights reserved").search
    return [b for b in blocks if b.strip() and not (b.lstrip().startswith("#") and is_notice(b))]

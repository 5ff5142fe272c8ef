"""Novels out of an R lazy-load database: zlib streams behind a 4-byte size, each one a character vector of lines."""

import re
import struct
import zlib

from text import flow

STRING = b"\x00\x04\x00\x09"  # flags of a CHARSXP that is ASCII or UTF-8, in R's XDR serialisation


def books(database):
    """Yields the lines of each character vector in the database."""
    at = 0
    while at + 4 < len(database):
        stream = zlib.decompressobj()
        try:
            raw = stream.decompress(database[at + 4 :])
        except zlib.error:
            return
        at = len(database) - len(stream.unused_data)
        lines, here = [], raw.find(STRING)
        while 0 <= here < len(raw) - 8:
            (size,) = struct.unpack_from(">i", raw, here + 4)
            start = here + 8
            size = max(size, 0)
            lines.append(raw[start : start + size].decode("utf-8", "replace"))
            here = start + size if raw[start + size : start + size + 4] == STRING else raw.find(STRING, start + size)
        if len(lines) > 1000:
            yield lines


def chapters(database):
    """Yields (name, paragraphs) of each chapter of each book."""
    for lines in books(database):
        title = re.sub(r"\W+", "-", next(line for line in lines if line.strip()).strip().lower()).strip("-")
        text = "\n".join(lines)
        for number, chapter in enumerate(re.split(r"(?m)^(?=chapter \w+)", text, flags=re.I)):
            found = [flow(p) for p in re.split(r"\n\s*\n", chapter)]
            yield f"{title}/{number}", [p.replace("_", "") for p in found if len(p) > 20]

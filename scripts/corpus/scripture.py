"""A SWORD zText module to chapters: an index of 12-byte entries (offset, size, unpacked size) over zlib blocks of OSIS."""

import re
import struct
import zlib


def chapters(index, blocks):
    """Yields (name, paragraphs) of each chapter of one testament."""
    text = []
    for at in range(0, len(index) - 11, 12):
        offset, size, _ = struct.unpack_from("<III", index, at)
        if size:
            text.append(zlib.decompress(blocks[offset : offset + size]).decode("utf-8", "replace"))
    for chapter in re.split(r"(?=<chapter )", "".join(text)):
        name = re.search(r'osisID="([^"]+)"', chapter)
        if name:
            yield name[1], plain(chapter)


def plain(osis):
    """Paragraphs of one chapter, without notes, cross references and Strong's numbers."""
    osis = re.sub(r"<note\b.*?</note>|<title\b.*?</title>", "", osis, flags=re.S)
    osis = re.sub(r"</p>|<p\b[^>]*>|</lg>|<div\b[^>]*>|<milestone[^>]*type=\"x-p\"[^>]*>|<lb[^>]*>", "\n", osis)
    osis = re.sub(r"<[^>]*>", " ", osis)
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        osis = osis.replace(entity, char)
    found = (re.sub(r"\s+", " ", p).strip() for p in osis.split("\n"))
    return [re.sub(r" (?=[,.;:?!”’])|(?<=[“‘]) ", "", p) for p in found if p]

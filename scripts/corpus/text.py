"""From the paragraphs of a page to documents: joining lines, telling Japanese from English, cutting.

Knows nothing of packages and formats.
"""

import re

CJK = r"\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
KANA = re.compile(r"[\u3040-\u30ff]")
LETTER = re.compile(r"[^\W\d_]")
# A line break between two full-width characters is no space; elsewhere it is one.
BREAK_IN_JAPANESE = re.compile(rf"(?<=[{CJK}])[ \t]*\n[ \t]*(?=[{CJK}])")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])|(?<=[。！？])")

# Characters of one document, least and most: data small enough that a document keeps to one subject, and long
# enough that its subject can be told. A Japanese character says about as much as three Latin ones.
LENGTHS = {"en": (250, 2400), "ja": (120, 900)}


def flow(lines):
    """One paragraph out of the lines of a running text."""
    text = BREAK_IN_JAPANESE.sub("", lines.strip())
    return re.sub(r"\s+", " ", text)


def japanese_share(text):
    """Share of the letters that are kana or han; 0 for a text without kana (Chinese, or no letters at all)."""
    letters = len(LETTER.findall(text))
    return len(JAPANESE.findall(text)) / letters if letters and KANA.search(text) else 0.0


def pieces(paragraph, most):
    """A paragraph in pieces of at most `most` characters, cut at sentence ends, line ends, or anywhere."""
    if len(paragraph) <= most:
        return [paragraph]
    parts = paragraph.split("\n") if "\n" in paragraph else SENTENCE_END.split(paragraph)
    joint = "\n" if "\n" in paragraph else " " if " " in paragraph else ""
    out, held = [], ""
    for part in parts:
        for start in range(0, len(part), most):
            bit = part[start : start + most]
            if held and len(held) + len(joint) + len(bit) > most:
                out.append(held)
                held = bit
            else:
                held = held + joint + bit if held else bit
    return out + [held] if held else out


def cut(paragraphs, language):
    """Documents of one page: paragraphs packed in order; what stays too short is left out."""
    least, most = LENGTHS[language]
    documents, held = [], ""
    for paragraph in paragraphs:
        if language == "ja" and is_untranslated(paragraph):
            continue
        for piece in pieces(paragraph, most):
            if held and len(held) + 1 + len(piece) > most:
                documents.append(held)
                held = piece
            else:
                held = held + "\n" + piece if held else piece
    documents.append(held)
    return [d for d in documents if len(d) >= least and is_prose(d, language)]


def is_untranslated(paragraph):
    """Whether a paragraph of a Japanese page is an English sentence that the translators left."""
    return len(paragraph.split(" ")) >= 6 and "\n" not in paragraph and not JAPANESE.search(paragraph)


def is_prose(document, language):
    """Whether most of it is words of its language, and not a table of numbers or symbols."""
    if language == "ja":
        return japanese_share(document) >= 0.35
    latin = sum(c.isascii() and (c.isalpha() or c == " ") for c in document)
    return latin >= 0.6 * len(document)

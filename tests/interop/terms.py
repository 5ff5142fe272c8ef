"""What the server takes for terms (server/corpus/src/terms.rs), written again: so that scikit-learn's pipeline begins
with the same words, and what is compared is the pipeline."""

import re
import unicodedata
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "server" / "corpus" / "src" / "terms.rs"
STOP_WORDS = frozenset(re.search(r'const ENGLISH: &str = "(.*?)";', SOURCE.read_text(), re.S).group(1).replace("\\", " ").split())
UNSPACED = (
    (0x3041, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF),
    (0x0E01, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF),
)  # fmt: skip


def is_unspaced(c):
    return c in "々〆" or any(first <= ord(c) <= last for first, last in UNSPACED)


def is_hiragana(c):
    return 0x3041 <= ord(c) <= 0x309F


def terms(text):
    found, word, previous = [], [], None

    def flush():
        if 2 <= len(word) <= 40 and word[0].isalpha() and (joined := "".join(word)) not in STOP_WORDS:
            found.append(joined)
        word.clear()

    for c in unicodedata.normalize("NFKC", text).lower():
        if is_unspaced(c):
            flush()
            if previous and not (is_hiragana(previous) and is_hiragana(c)):
                found.append(previous + c)
            previous = c
        else:
            previous = None
            if c.isalnum() or c == "_":
                word.append(c)
            else:
                flush()
    flush()
    return found

"""Manual pages (roff with the `man` macros) to paragraphs. Tables and pages in other macro sets are left out."""

import gzip
import re

from text import flow

# Sections that say the same on every page.
SAME_EVERYWHERE = re.compile(
    r"^(COLOPHON|AUTHORS?|COPYRIGHT|SEE ALSO|REPORTING BUGS|LICENSE|ATTRIBUTES|AVAILABILITY|"
    r"この文書について|著者|作者|関連項目|著作権|バグ報告|バグの報告|翻訳者?|翻訳者謝辞|ライセンス|属性|準拠|CONFORMING TO|STANDARDS)\b"
)
SPECIAL = {
    "aq": "'", "dq": '"', "lq": '"', "rq": '"', "oq": "'", "cq": "'", "(lq": '"', "(rq": '"', "bu": "*", "em": " - ", "en": "-",
    "co": "(c)", "rs": "\\", "ti": "~", "ha": "^", "ga": "`", "mu": "x", "->": "->", "<=": "<=", ">=": ">=", "+-": "+-",
    "lB": "[", "rB": "]", "la": "<", "ra": ">", "de": "°", "sc": "§", "pl": "+", "mi": "-", "eq": "=", "sl": "/", "ba": "|",
}  # fmt: skip
FONTS = {".B", ".I", ".BR", ".RB", ".IR", ".RI", ".BI", ".IB", ".SM", ".SB"}
ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')


def inline(text):
    """A line without its escapes."""
    text = re.sub(r'\\".*$', "", text)
    text = re.sub(r"\\f(\[[^]]*\]|\(..|.)", "", text)
    text = re.sub(r"\\s(\[[^]]*\]|[+-]?\d)", "", text)
    text = re.sub(r"\\\((..)", lambda m: SPECIAL.get(m[1], ""), text)
    text = re.sub(r"\\\[u([0-9A-F]{4,5})\]", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\\[([^]]*)\]", lambda m: SPECIAL.get(m[1], ""), text)
    text = re.sub(r"\\\*(\(..|\[[^]]*\]|.)", "", text)
    text = re.sub(r"\\[hvwd]'[^']*'", "", text)
    text = re.sub(r"\\[&/,|^%:!)dupczt]", "", text)
    text = text.replace("\\-", "-").replace("\\ ", " ").replace("\\~", " ").replace("\\0", " ").replace("\\'", "'")
    return text.replace("\\`", "`").replace("\\.", ".").replace("\\e", "\\").replace("\\\\", "\\")


def arguments(rest):
    return [inline(m[1].replace('""', '"') if m[1] is not None else m[2]) for m in ARGUMENT.finditer(rest)]


def paragraphs(packed):
    """Paragraphs of a gzipped page; none where it is only a pointer to another page or not in `man` macros."""
    source = gzip.decompress(packed).decode("utf-8", "replace")
    if "\ufffd" in source or re.search(r"^\.(Sh|so)\b", source, re.M):
        return []
    out, held, literal, skipped, table, macro = [], [], False, True, False, False

    def flush():
        if held and not skipped:
            text = "\n".join(held).strip("\n") if literal else flow("\n".join(held))
            if text.strip():
                out.append(text)
        held.clear()

    for line in source.split("\n"):
        name, _, rest = line.strip().partition(" ") if line.startswith((".", "'")) else ("", "", "")
        if macro:
            macro = line.strip() != ".."
        elif table:
            table = name != ".TE"
        elif name in (".de", ".ig", ".am"):
            macro = True
        elif name in (".TS", ".EQ", ".PS"):
            flush()
            table = True
        elif name in (".SH", ".SS"):
            flush()
            heading = " ".join(arguments(rest))
            if name == ".SH":
                skipped = bool(SAME_EVERYWHERE.match(heading))
            held.append(heading)
            flush()
        elif name in (".nf", ".EX"):
            flush()
            literal = True
        elif name in (".fi", ".EE"):
            flush()
            literal = False
        elif name in FONTS:
            parts = arguments(rest)
            held.append((" " if name in (".B", ".I", ".SM", ".SB") else "").join(parts))
        elif name in (".TP", ".PP", ".P", ".LP", ".IP", ".HP", ".sp", ".br", ".TQ"):
            if not (literal and name in (".br", ".sp")):
                flush()
            if name == ".IP" and len(rest) > 3:
                held.append(arguments(rest)[0])
        elif name in (".UR", ".MT"):
            held.append(rest)
        elif name:
            continue
        elif line.strip() or literal:
            held.append(inline(line))
        else:
            flush()
    flush()
    return out

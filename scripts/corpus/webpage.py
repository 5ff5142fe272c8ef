"""HTML pages to paragraphs: what a reader reads, without navigation, scripts and notices."""

import re
from html.parser import HTMLParser

from text import flow

BLOCKS = set("p div h1 h2 h3 h4 h5 h6 li dt dd tr pre table ul ol dl blockquote section article hr caption".split())
SKIPPED_TAGS = {"head", "script", "style", "nav", "header", "footer", "aside", "noscript", "button", "svg", "math"}
# Classes and ids of navigation and of what stands on every page, of the generators behind our sources:
# DocBook XSL, LibreOffice's help, texi2html, Scilab's help.
SKIPPED_NAMES = set(
    "navheader navfooter toc titlepage footer nav_table menu tocframe manualnavbar path relatedtopics howtogetheader "
    "MAC DEBUG DonationFrame SearchFrame iconcell noteicon tocref indexterm breadcrumbs".split()
)
VOID = {"br", "img", "hr", "meta", "link", "input", "col", "area", "base", "wbr"}


class Page(HTMLParser):
    """Collects paragraphs in `out`."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.out, self.held = [], []
        self.skip_tag, self.skip_depth, self.literal = None, 0, 0

    def flush(self):
        text = "".join(self.held)
        self.held = []
        text = re.sub(r"\n{3,}", "\n\n", text.strip("\n")) if self.literal else flow(text)
        if text.strip():
            self.out.append(text)

    def handle_starttag(self, tag, attrs):
        if self.skip_tag:
            self.skip_depth += tag == self.skip_tag
            return
        names = {n for k, v in attrs if k in ("class", "id") and v for n in v.split()}
        if tag not in VOID and (tag in SKIPPED_TAGS or names & SKIPPED_NAMES):
            self.skip_tag, self.skip_depth = tag, 1
        elif tag in BLOCKS:
            self.flush()
            self.literal += tag == "pre"
        elif tag == "br":
            self.held.append("\n")
        elif tag in ("td", "th"):
            self.held.append(" ")

    def handle_endtag(self, tag):
        if self.skip_tag:
            self.skip_depth -= tag == self.skip_tag
            if self.skip_depth <= 0:
                self.skip_tag = None
        elif tag in BLOCKS:
            self.flush()
            self.literal -= tag == "pre" and self.literal > 0

    def handle_data(self, data):
        if not self.skip_tag:
            self.held.append(data)


def paragraphs(page):
    """Paragraphs of an HTML page given as UTF-8 bytes."""
    parser = Page()
    parser.feed(page.decode("utf-8", "replace"))
    parser.flush()
    return parser.out

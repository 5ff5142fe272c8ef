"""What the demo corpus is made of: one entry a source label, all from Debian's `main` section.

The sources differ clearly, in subject and in language, so that domains are there to be found; four are Japanese.
"""

import io
import zipfile
from dataclasses import dataclass

import debs
import manpage
import novel
import pod
import python_code
import scripture
import webpage


@dataclass(frozen=True)
class Source:
    """One source label."""

    label: str
    language: str
    packages: tuple[str, ...]  # alternatives of one package, by release, are joined by "|"
    pages: str  # regular expression of the files taken
    read: callable  # bytes of a file -> paragraphs
    licence: str
    ending: str = ".jsonl"  # of its file; three kinds, so that the demo reads all of them


def one_to_one(found, source):
    """The usual kind of package: a file is a page."""
    for path, content in found:
        yield path, lambda content=content: source.read(content)


def zipped(found, source):
    """Scilab's help: a zip of pages."""
    for _, content in found:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                if name.endswith(".html"):
                    yield name, lambda page=archive.read(name): source.read(page)


def testaments(found, _source):
    """SWORD: an index and a file of blocks for each testament."""
    files = {path.rsplit("/", 1)[1]: content for path, content in found}
    for testament in ("ot", "nt"):
        for name, paragraphs in scripture.chapters(files[f"{testament}.bzs"], files[f"{testament}.bzz"]):
            yield f"{testament}/{name}", lambda paragraphs=paragraphs: paragraphs


def novels(found, _source):
    """An R database of books."""
    for _, content in found:
        for name, paragraphs in novel.chapters(content):
            yield name, lambda paragraphs=paragraphs: paragraphs


PAGES = {"numerics-ja": zipped, "scripture": testaments, "novel": novels}

HELP = r"share/libreoffice/help/[^/]+/text/(swriter|scalc|simpress|sdraw|smath|schart|shared|sbasic)/.*\.html$"
MUSIC = r"html/Documentation/(notation|learning|usage)/(?!\w*lilypond-\w*-?index|lilypond-index|index)"

SOURCES = (
    Source("code", "en", ("libpython3.13-stdlib|libpython3.12-stdlib|libpython3.11-stdlib",),
           r"usr/lib/python3\.\d+/(?!.*(test|idlelib|lib2to3|encodings|pydoc_data|turtledemo)).*\.py$",
           python_code.paragraphs, "PSF-2.0", ".jsonl.zst"),
    Source("database", "en", ("postgresql-doc-17|postgresql-doc-16|postgresql-doc-15",),
           r"html/(?!release|bookindex|index|biblio|sql-keywords|features|legalnotice).*\.html$",
           webpage.paragraphs, "PostgreSQL", ".jsonl.gz"),
    Source("libreoffice", "en", ("libreoffice-help-en-us",), HELP, webpage.paragraphs, "MPL-2.0", ".jsonl.gz"),
    Source("libreoffice-ja", "ja", ("libreoffice-help-ja",), HELP, webpage.paragraphs, "MPL-2.0", ".jsonl.gz"),
    Source("music", "en", ("lilypond-doc-html",), MUSIC + r"[^/.]+\.html$",
           webpage.paragraphs, "GFDL-1.3-or-later"),
    Source("music-ja", "ja", ("lilypond-doc-html-ja",), MUSIC + r"[^/.]+\.ja\.html$",
           webpage.paragraphs, "GFDL-1.3-or-later"),
    Source("novel", "en", ("r-cran-janeaustenr",), r"data/Rdata\.rdb$", None, "public domain text"),
    Source("numerics-ja", "ja", ("scilab-doc-ja",), r"scilab_ja_JP_help\.jar$",
           webpage.paragraphs, "GPL-2.0 and CeCILL"),
    Source("perl", "en", ("perl-doc",), r"/pod/perl(?!\w*delta|toc|artistic|gpl|hist)\w+\.pod$",
           pod.paragraphs, "Artistic or GPL-1.0-or-later"),
    Source("scripture", "en", ("sword-text-web",), r"ztext/[^/]+/[on]t\.bz[sz]$", None, "public domain"),
    Source("unixman", "en", ("manpages", "manpages-dev"), r"share/man/man[1-8]/.*\.gz$",
           manpage.paragraphs, "mixed free licences, named in each page", ".jsonl.zst"),
    Source("unixman-ja", "ja", ("manpages-ja", "manpages-ja-dev"), r"share/man/ja/man[1-8]/.*\.gz$",
           manpage.paragraphs, "mixed free licences, named in each page; check each page before selling it"),
)  # fmt: skip


def pages(source, packages):
    """Yields (name, function giving the paragraphs) of each page of a source in its downloaded packages."""
    found = (entry for deb in packages for entry in debs.files(deb, source.pages))
    yield from PAGES.get(source.label, one_to_one)(found, source)

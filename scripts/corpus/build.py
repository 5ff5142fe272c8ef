"""Assembles the demo corpus: `build.py list` prints the packages, `build.py FOLDER DEBS` writes the corpus.

The same packages give the same bytes of text. Nothing here touches the network.
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import text
from sources import SOURCES, pages

# UTF-8 bytes of text of one source, at most. A dozen sources of this size are about 10 million tokens of the demo's
# vocabulary: enough that no branch of the demo reads its domain twice over.
BYTES_MAX = 2_400_000
# A paragraph of this many characters that comes back is a notice or an included help text: kept twice, then left out.
REPEATED_LEAST, REPEATED_MOST = 40, 2


def documents(source, packages):
    """Documents of a source as (page, number, text), pages in an order that only depends on their names."""
    found = sorted(pages(source, packages), key=lambda page: hashlib.sha256(page[0].encode()).digest())
    seen, size = {}, 0
    for name, read in found:
        fresh = []
        for paragraph in read():
            seen[paragraph] = seen.get(paragraph, 0) + (len(paragraph) >= REPEATED_LEAST)
            if seen[paragraph] <= REPEATED_MOST:
                fresh.append(paragraph)
        for number, document in enumerate(text.cut(fresh, source.language)):
            size += len(document.encode())
            if size > BYTES_MAX:
                return
            yield name, number, document


def compressed(path, ending, content):
    """Writes `content` as the ending says; a machine without zstd gets gzip. Returns the path written."""
    if ending == ".jsonl.zst" and not shutil.which("zstd"):
        ending = ".jsonl.gz"
    if ending == ".jsonl.zst":
        content = subprocess.run(["zstd", "-q", "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout
    elif ending == ".jsonl.gz":
        content = gzip.compress(content, mtime=0)
    path = path.with_name(path.name + ending)
    path.write_bytes(content)
    return path


def write(source, packages, folder):
    """Writes one source's file; returns its line for SOURCES.md."""
    lines, size = [], 0
    for name, number, document in documents(source, packages):
        page = name.rsplit("/", 1)[-1].removesuffix(".gz").removesuffix(".html")
        key = hashlib.sha256(name.encode()).hexdigest()[:6]
        record = {"id": f"{source.label}/{page}-{key}#{number}", "text": document, "source": source.label}
        lines.append(json.dumps(record, ensure_ascii=False))
        size += len(document.encode())
    if not lines:
        raise SystemExit(f"setup-corpus: found no document for {source.label} in {packages}")
    stem = source.label if source.label.endswith(f"-{source.language}") else f"{source.label}-{source.language}"
    path = compressed(folder / stem, source.ending, ("\n".join(lines) + "\n").encode())
    names = ", ".join(deb.name.removesuffix(".deb").replace("_", " ").replace("%3a", ":") for deb in packages)
    print(f"  {path.name:26} {len(lines):6,} documents {size / 1e6:5.1f} MB", flush=True)
    return f"| {path.name} | {source.language} | {len(lines):,} | {size / 1e6:.1f} | {names} | {source.licence} |"


def downloaded(alternatives, debs):
    """The newest downloaded file of the first alternative that is there."""
    for name in alternatives.split("|"):
        found = sorted(debs.glob(f"{name}_*.deb"), key=lambda deb: deb.stat().st_mtime)
        if found:
            return found[-1]
    raise SystemExit(f"setup-corpus: package {alternatives} is not in {debs}")


def build(folder, debs):
    """Writes every source beside `folder`, then renames: the corpus is there as a whole or not at all."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    inputs = [(source, [downloaded(package, debs) for package in source.packages]) for source in SOURCES]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = [job.result() for job in [pool.submit(write, *entry, fresh) for entry in inputs]]
    table = "| file | language | documents | MB of text | Debian packages | licence |\n|---|---|---|---|---|---|\n"
    about = "Assembled by scripts/setup-corpus. The texts belong to their authors, under the licences named.\n\n"
    (fresh / "SOURCES.md").write_text("# Sources of the demo corpus\n\n" + about + table + "\n".join(rows) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def main(arguments):
    if arguments == ["list"]:
        print("\n".join(package for source in SOURCES for package in source.packages))
    elif len(arguments) == 2:
        build(Path(arguments[0]), Path(arguments[1]))
    else:
        raise SystemExit("usage: build.py list | build.py FOLDER DEBS")


if __name__ == "__main__":
    main(sys.argv[1:])

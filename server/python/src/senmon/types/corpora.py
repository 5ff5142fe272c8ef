"""Corpora: what is registered, and what its scan counted."""

from typing import Literal, NotRequired, TypedDict

TextDocuments = Literal["auto", "file", "line", "block"]
FileProblemKind = Literal["damaged", "unreadable"]
FileFormat = Literal[
    "jsonl", "jsonl_gz", "jsonl_zst", "json", "json_gz", "json_zst", "parquet", "text", "text_gz", "text_zst"
]
CorpusState = Literal["scanning", "ready", "failed"]


class DocumentFields(TypedDict):
    """How documents are read from files: the fields of a record, and what a record is where the file does not say. A
    name with dots (`meta.id`) reaches into nested records where no field has the whole name; plain text files
    have no fields.
    """

    # Field with a stable id: text or a number. Without it, and where a record has none, the id is `<file
    # name>:<record number>`.
    id: NotRequired[str | None]
    # Field with a group: records of one group are on one side of the split into training and held-out text. Without
    # it the group is the id up to its first `#`, so that pieces of one page (`page#1`, `page#2`) stay together.
    group: NotRequired[str | None]
    # Field with a source label (only reported and compared with the clustering, never trained on).
    source: NotRequired[str | None]
    # Field with the text: text, a number, or a list of texts, which are joined by line ends. Default `text`.
    text: NotRequired[str]
    text_documents: NotRequired[TextDocuments]  # What is one document in `.txt` files.
    # Longest window that a zstd frame may ask for, in bytes: memory to read one file. 1 KiB to 2 GiB, default 2 GiB.
    zstd_window_bytes_max: NotRequired[int]


class RegisterCorpus(TypedDict):
    """`POST /api/v1/corpora`: registers files as an immutable corpus and scans them."""

    name: str  # Unique name, 1 to 100 characters of letters, digits, `-`, `_`, `.`.
    fields: NotRequired[DocumentFields]  # How documents are read from files.
    # Files, folders and globs on the server's disk, inside its `corpus_roots`. A folder stands for every readable
    # file below it; links to folders are not followed.
    paths: list[str]
    # Whether a file that ends early or has a damaged part is taken up to its damage. Without it the corpus is refused
    # and the files are named.
    tolerate_damaged_files: NotRequired[bool]
    # Share of records (0 to 1) that may be broken before the corpus is refused.
    tolerated_broken_share: NotRequired[float]


class DocumentCounts(TypedDict):
    """Counts of records. Each record is in exactly one of `documents`, `empty`, `duplicates` and `broken`."""

    broken: int  # Records that could not be read (broken JSON, missing field, invalid UTF-8).
    documents: int  # Documents kept.
    duplicates: int  # Exact duplicates of an earlier document's text, dropped.
    empty: int  # Empty, white-space-only and null texts, dropped.
    # Of the records: those whose id field was missing, null or empty; file and record stand in for it.
    ids_missing: NotRequired[int]
    records: int  # Records seen, whatever became of them.
    # Of the records: those with halves of characters (lone surrogates), each replaced by U+FFFD.
    surrogates_replaced: NotRequired[int]
    text_bytes: int  # Bytes of UTF-8 text in the documents kept.


class ScanProgress(TypedDict):
    """How far a scan is."""

    files: int  # Files in all.
    files_done: int  # Files read.
    waits_for: NotRequired[str | None]  # What it waits for, in a sentence; None while a worker reads.


class LeftOutFile(TypedDict):
    """A file that a registration met and did not take."""

    path: str  # Its path.
    why: str


class LeftOut(TypedDict):
    """Files that a registration met and did not take."""

    count: int  # How many.
    first: list[LeftOutFile]  # The first of them, at most 100.


class BrokenRecord(TypedDict):
    """A record that could not be read."""

    path: str  # The file.
    record: int  # Record (line) number, from 1.
    why: str  # What is wrong with it, in one sentence.


class FileProblem(TypedDict):
    """Why a file cannot be read to its end."""

    kind: FileProblemKind  # What kind of problem.
    record: int  # The record, from 1, from which on nothing was read.
    why: str  # What is wrong, in one sentence.


class CorpusFile(TypedDict):
    """One file of a corpus' snapshot."""

    path: str  # Absolute path: of the link, where it is one.
    bytes: int  # Size in bytes when registered.
    counts: DocumentCounts  # What the scan counted.
    # Records to leave out (empty or exact duplicates of an earlier document): a file of little-endian `u64` record
    # numbers, ascending. None when there are none.
    dropped: NotRequired[str | None]
    format: FileFormat  # Format, by the ending of the path.
    index: int  # Position in the corpus, from 0.
    # Why it could not be read to its end; what came before is counted. None for a whole file.
    problem: NotRequired[FileProblem | None]
    sha256: str  # SHA-256 of the file, lower-case hex.


class CorpusView(TypedDict):
    """A corpus as the API shows it."""

    id: str
    name: str
    state: CorpusState
    broken_first: list[BrokenRecord]  # The first broken records, at most 20.
    counts: DocumentCounts  # Sums over the files.
    created_at: str  # When it was registered.
    fields: DocumentFields  # How documents are read from its files.
    files: list[CorpusFile]  # The files of the snapshot.
    left_out: LeftOut  # What its folders and globs held and was not taken.
    owner: NotRequired[str]  # Name of the token that registered it.
    problem: NotRequired[str | None]  # Why it was refused; while it is scanned, why that does not get on.
    scan: NotRequired[ScanProgress | None]  # How far the scan is; None when it is over.

"""Checkpoints on this machine's disk: resumed where a transfer broke off, and compared with the manifest.

`manifest.json` is written last: a folder that has it is whole. No file is given its name before its SHA-256 is what the
manifest says.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from senmon import errors, operations
from senmon.transport import Transport
from senmon.types import CheckpointMeta, CheckpointView

MANIFEST_FILE = "manifest.json"
TRAINER_FILES = ("trainer.safetensors", "trainer.json")
"""What only training needs."""
TRIES_MAX = 5
"""Tries in a row in which nothing more of a file comes."""

Which = Literal["model", "all"] | Sequence[str]
Progress = Callable[[int, int], object]
"""Called with bytes that are there and bytes in all."""


class FileEntry(TypedDict):
    """One file of a checkpoint."""

    bytes: int  # Size in bytes.
    sha256: str  # SHA-256, lower-case hex.


class Manifest(TypedDict):
    """`manifest.json`, the commit record of a checkpoint."""

    format: int  # Version of this format: 1.
    id: str  # The checkpoint.
    files: dict[str, FileEntry]  # Every other file of the folder.
    meta: CheckpointMeta  # Lineage and size.
    created_at: str  # When it was written, by the worker's clock.
    writer: str  # Version of the program that wrote it.


def fetch(
    transport: Transport, view: CheckpointView, folder: Path, which: Which, progress: Progress | None
) -> Manifest:
    """Brings files of a checkpoint into a folder, which may hold a part of them already; returns the manifest."""
    found = small_file(transport, view, MANIFEST_FILE)
    digest = hashlib.sha256(found).hexdigest()
    if digest != view["manifest_sha256"]:
        raise errors.ChecksumError(f"{MANIFEST_FILE}: found SHA-256 {digest}, expected {view['manifest_sha256']}")
    manifest: Manifest = json.loads(found)
    wanted = {name: manifest["files"][name] for name in chosen(manifest, which)}
    folder.mkdir(parents=True, exist_ok=True)
    total, done = sum(entry["bytes"] for entry in wanted.values()), 0
    for name, entry in wanted.items():
        before = done

        def told(there: int, before: int = before) -> None:
            if progress is not None:
                progress(before + there, total)

        File(transport, view["id"], folder, name, entry, told).fetch()
        done += entry["bytes"]
        told(entry["bytes"])
    unfinished = folder / f"{MANIFEST_FILE}.part"
    unfinished.write_bytes(found)
    unfinished.replace(folder / MANIFEST_FILE)
    return manifest


def is_there(view: CheckpointView, folder: Path, which: Which = "model") -> bool:
    """Whether a folder holds what `fetch` leaves: the manifest, and every file in its size."""
    try:
        found = (folder / MANIFEST_FILE).read_bytes()
        if hashlib.sha256(found).hexdigest() != view["manifest_sha256"]:
            return False
        manifest: Manifest = json.loads(found)
        names = chosen(manifest, which)
        return all((folder / name).stat().st_size == manifest["files"][name]["bytes"] for name in names)
    except FileNotFoundError:
        return False


def chosen(manifest: Manifest, which: Which) -> list[str]:
    """Names of the files that are asked for."""
    files = manifest["files"]
    for name in files:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise errors.DownloadError(f"{MANIFEST_FILE}: found the file name {name!r}, expected one without folders")
    if which == "all":
        return sorted(files)
    if which == "model":
        return sorted(name for name in files if name not in TRAINER_FILES)
    if isinstance(which, str):
        raise errors.ConfigurationError(f"files: found {which!r}, expected 'model', 'all', or a list of names")
    unknown = [name for name in which if name not in files]
    if unknown:
        raise errors.ConfigurationError(f"files: found {unknown[0]!r}, expected some of {sorted(files)}")
    return list(which)


def small_file(transport: Transport, view: CheckpointView, name: str) -> bytes:
    """A small file, whole."""
    with transport.opened(operations.CHECKPOINT_FILE, headers=AS_IT_IS, id=view["id"], name=name) as answer:
        return answer.read()


AS_IT_IS = {"accept-encoding": "identity"}
"""Ranges count bytes of the file, not of a compressed form."""


class File:
    """One file on its way."""

    def __init__(
        self, transport: Transport, id: str, folder: Path, name: str, entry: FileEntry, told: Callable[[int], None]
    ) -> None:
        self._transport, self._id, self._name, self._entry, self._told = transport, id, name, entry, told
        self._target = folder / name
        self._part = folder / f"{name}.part"

    def fetch(self) -> None:
        """Brings it here, unless it is."""
        size, digest = self._entry["bytes"], self._entry["sha256"]
        if size_of(self._target) == size and sha256_of(self._target) == digest:
            return
        continued = size_of(self._part) > 0
        self._bring()
        found = sha256_of(self._part)
        if found != digest and continued:
            # What an earlier download left was not of this file: once more, from its beginning.
            self._part.unlink()
            self._bring()
            found = sha256_of(self._part)
        if found != digest:
            self._part.unlink()
            raise errors.ChecksumError(f"{self._name}: found SHA-256 {found}, expected {digest}")
        os.replace(self._part, self._target)

    def _bring(self) -> None:
        """Until the part has all bytes, or nothing more comes."""
        self._part.touch()
        size, failures = self._entry["bytes"], 0
        while (there := size_of(self._part)) != size:
            if there > size:
                self._part.unlink()
                self._part.touch()
                there = 0
            why: Exception | None = None
            try:
                self._more(there)
            except (errors.UnreachableError, errors.ServerError) as error:
                why = error
            came = size_of(self._part) > there
            failures = 0 if came else failures + 1
            if failures >= TRIES_MAX:
                why_text = f": {why}" if why else ""
                raise errors.DownloadError(
                    f"{self._name}: {there} of {size} bytes came{why_text}; download again to go on from there"
                ) from why
            if why is not None and not came:
                time.sleep(min(0.3 * 2**failures, 5.0))

    def _more(self, there: int) -> None:
        """Asks for what is missing."""
        headers = dict(AS_IT_IS)
        if there:
            headers |= {"range": f"bytes={there}-", "if-range": f'"{self._entry["sha256"]}"'}
        with self._transport.opened(
            operations.CHECKPOINT_FILE, headers=headers, id=self._id, name=self._name
        ) as answer:
            if answer.status_code == 416:
                raise self._of_another_size(f"at most {there}")
            is_rest = answer.status_code == 206 and answer.headers.get("content-range", "").startswith(
                f"bytes {there}-"
            )
            if not is_rest:
                there = 0
            with open(self._part, "ab" if is_rest else "wb") as file:
                for chunk in answer.iter_bytes():
                    file.write(chunk)
                    there += len(chunk)
                    if there > self._entry["bytes"]:
                        raise self._of_another_size(f"at least {there}")
                    self._told(there)

    def _of_another_size(self, found: str) -> errors.ChecksumError:
        self._part.unlink()
        return errors.ChecksumError(f"{self._name}: found {found} bytes, expected {self._entry['bytes']}")


def size_of(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

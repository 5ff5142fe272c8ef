"""A reader of Megatron-LM's indexed datasets, written from the description of the format (megatron/core/datasets/
indexed_dataset.py); nothing of Senmon is used.

`.idx`, little-endian: magic `MMIDIDX\\0\\0`, version u64 = 1, type code u8, number of sequences u64, number of document
indices u64; then the sequences' lengths i32, their byte offsets in `.bin` i64, the document indices i64 (the sequence
at which each document starts, and one past the last). `.bin`: the tokens, back to back.
"""

import struct
from dataclasses import dataclass

import numpy

TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}


@dataclass
class Dataset:
    """All of a dataset, in memory."""

    dtype: str
    lengths: numpy.ndarray
    offsets: numpy.ndarray
    documents: numpy.ndarray
    tokens: numpy.ndarray
    idx_bytes: int

    def sequence(self, index):
        """Tokens of one sequence, found by its byte offset."""
        first = self.offsets[index] // numpy.dtype(self.dtype).itemsize
        return self.tokens[first : first + self.lengths[index]]


def read(prefix):
    """Reads `<prefix>.idx` and `<prefix>.bin`."""
    idx = open(f"{prefix}.idx", "rb").read()
    assert idx[:9] == b"MMIDIDX\x00\x00", idx[:9]
    version, code, sequences, documents = struct.unpack_from("<QBQQ", idx, 9)
    assert version == 1, version
    at = 9 + struct.calcsize("<QBQQ")
    parts = []
    for dtype, count in (("<i4", sequences), ("<i8", sequences), ("<i8", documents)):
        parts.append(numpy.frombuffer(idx, dtype, count, at))
        at += parts[-1].nbytes
    tokens = numpy.fromfile(f"{prefix}.bin", numpy.dtype(TYPES[code]).newbyteorder("<"))
    return Dataset(TYPES[code], *parts, tokens, at)

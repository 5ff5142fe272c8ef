"""Reads the file of an offline run of Weights & Biases: a log as LevelDB's, of protobuf records in blocks."""

import json
import struct

from wandb.proto import wandb_internal_pb2

BLOCK, HEAD, FULL, FIRST, LAST = 32768, 7, 1, 2, 4


def records(path):
    """Every record of a file."""
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + HEAD])
        parts += data[at + HEAD : at + HEAD + size]
        at += HEAD + size
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def history(path):
    """The rows that were logged, as dicts."""
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            yield {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}

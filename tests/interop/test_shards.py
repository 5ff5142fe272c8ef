"""Megatron reads our shards: layout byte for byte, and every document's tokens as the tokenizer itself gives them."""

import hashlib
import json

import megatron
import numpy
import pytest
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def shards(world, experiment):
    """The experiment's shards: (folder, shard.json, dataset)."""
    index = json.loads((world.storage / "shards" / experiment["id"] / "index.json").read_text())
    assert index["shards"], "no shard was written"
    folders = [(world.storage / shard["folder"], shard) for shard in index["shards"]]
    return index, [(folder, shard, megatron.read(folder / "shard")) for folder, shard in folders]


def test_the_index_file_is_exactly_the_format(shards):
    for folder, _, data in shards[1]:
        assert (folder / "shard.idx").stat().st_size == data.idx_bytes, "bytes after the document indices"
        itemsize = numpy.dtype(data.dtype).itemsize
        ends = numpy.cumsum(data.lengths.astype(numpy.int64)) * itemsize
        assert (data.offsets == numpy.concatenate([[0], ends[:-1]])).all(), "offsets are the lengths' running sum"
        assert (folder / "shard.bin").stat().st_size == ends[-1]
        # One sequence a document: document i starts at sequence i.
        assert (data.documents == numpy.arange(len(data.lengths) + 1)).all()


def test_tokens_are_u16_where_the_vocabulary_fits(shards):
    index, all_shards = shards
    assert index["vocab_size"] < 65500
    assert {data.dtype for _, _, data in all_shards} == {"uint16"}
    assert all(data.tokens.max() < index["vocab_size"] for _, _, data in all_shards)


def test_checksums_are_those_of_the_files(shards):
    for folder, shard, _ in shards[1]:
        for ending in ("bin", "idx"):
            assert hashlib.sha256((folder / f"shard.{ending}").read_bytes()).hexdigest() == shard[f"{ending}_sha256"]


def test_ranges_are_the_documents_in_order(shards):
    for _, shard, data in shards[1]:
        document = token = 0
        for part in shard["ranges"]:
            assert (part["document_first"], part["token_first"]) == (document, token), part
            assert data.lengths[document : document + part["documents"]].sum() == part["tokens"]
            document, token = document + part["documents"], token + part["tokens"]
        assert (document, token) == (len(data.lengths), len(data.tokens))
        keys = [(part["domain"], part["split"] != "train") for part in shard["ranges"]]
        assert keys == sorted(set(keys)), "sorted by domain, training part first"


def test_every_document_is_there_once_with_its_tokens(world, experiment, shards):
    index, all_shards = shards
    tokenizer = Tokenizer.from_file(str(tokenizer_file(world, experiment)))
    separator = index["separator_id"]
    wanted = sorted(tuple(tokenizer.encode(text, add_special_tokens=False).ids) + (separator,) for text in set(world.documents().values()))
    found = sorted(tuple(data.sequence(i).tolist()) for _, _, data in all_shards for i in range(len(data.lengths)))
    assert found == wanted


def tokenizer_file(world, experiment):
    """The experiment's own: others in this world have theirs."""
    return next((world.storage / "checkpoints" / experiment["branches"][0]["id"]).glob("*/tokenizer.json"))


def test_about_the_asked_share_is_held_out(shards):
    documents = held_out = 0
    for _, shard, _ in shards[1]:
        for part in shard["ranges"]:
            documents += part["documents"]
            held_out += part["documents"] * (part["split"] == "held_out")
    assert 0.06 < held_out / documents < 0.15, (held_out, documents)

"""transformers loads what the worker writes, and computes the same."""

import json
import math

import megatron
import numpy
import pytest
import torch
import transformers
from reference import worker_logits
from safetensors.numpy import load_file


@pytest.fixture(scope="module")
def folders(world, experiment):
    """The last checkpoint's folder of each branch, by name."""
    found = {}
    for branch in experiment["branches"]:
        checkpoint = world.get(f"/api/v1/checkpoints/{branch['checkpoint_id']}")
        found[branch["name"]] = world.storage / checkpoint["folder"]
    return found


def model_of(folder):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not loading[kind], f"{kind}: {loading[kind]}"
    return model.eval()


def test_every_branch_loads(folders):
    assert len(folders) >= 6  # seed, three experts, dense, average
    for name, folder in folders.items():
        model = model_of(folder)
        assert model.config.model_type == "llama", name
        assert all(torch.isfinite(p).all() for p in model.parameters()), name


def test_the_tokenizer_loads_and_survives_a_round_trip(folders):
    tokenizer = transformers.AutoTokenizer.from_pretrained(next(iter(folders.values())))
    for text in ("The quick brown fox.", "専門家の混合は、一つの大きなモデルより良いか。", "  tabs\tand\nlines  "):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_it_generates(folders):
    folder = next(iter(folders.values()))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("And it came", return_tensors="pt", add_special_tokens=False)
    out = model_of(folder).generate(**prompt, max_new_tokens=8, do_sample=False)
    assert out.shape[1] > prompt["input_ids"].shape[1]


@pytest.mark.parametrize("tokens", [[3], list(range(40)), [int(t) for t in numpy.random.default_rng(7).integers(0, 512, 64)]])
def test_the_logits_are_the_workers(folders, tokens, tmp_path):
    name, folder = next((n, f) for n, f in folders.items() if n.startswith("expert"))
    ours = worker_logits(folder, tokens, tmp_path)
    with torch.inference_mode():
        theirs = model_of(folder)(torch.tensor([tokens])).logits[0].numpy()
    assert ours.shape == theirs.shape, name
    assert numpy.abs(ours - theirs).max() <= 1e-4, numpy.abs(ours - theirs).max()


def test_the_cached_scores_are_what_transformers_gives(world, experiment, folders):
    """Every held-out token's log-probability, recomputed from the shards with another implementation."""
    index = json.loads((world.storage / "shards" / experiment["id"] / "index.json").read_text())
    page = world.get(f"/api/v1/experiments/{experiment['id']}/evaluations?limit=200")
    evaluation = next(e for e in page["items"] if e["title"] == "seed")
    (path,) = (world.storage / "evaluations" / evaluation["id"]).glob("f*/logprobs.safetensors")
    scores = load_file(path)
    data = {shard["folder"]: megatron.read(world.storage / shard["folder"] / "shard") for shard in index["shards"]}
    model = model_of(folders["seed"])
    listed = json.loads((world.storage / "shards" / experiment["id"] / "held_out.json").read_text())["documents"]
    wanted = []
    for entry in listed:
        document = data[index["shards"][entry["shard"]]["folder"]].sequence(entry["document"])
        wanted.append(logprobs(model, index["separator_id"], document.astype(numpy.int64), 64))
    assert scores["domain"].tolist() == [entry["domain"] for entry in listed]
    assert scores["reported"].tolist() == [entry["reported"] for entry in listed]
    assert scores["document_tokens"].tolist() == [len(w) for w in wanted]
    difference = numpy.abs(numpy.concatenate(wanted) - scores["logprobs"]).max()
    assert difference <= 1e-4, difference
    assert math.isfinite(float(scores["logprobs"].sum()))


def test_what_stands_beside_the_weights(folders):
    """The separator ends a text, and opens it where the tokenizer puts nothing before one."""
    for folder in folders.values():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        config = transformers.AutoConfig.from_pretrained(folder)
        generation = transformers.GenerationConfig.from_pretrained(folder)
        assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
        assert config.eos_token_id == generation.eos_token_id == tokenizer.eos_token_id == 0


def logprobs(model, separator, document, length):
    """Natural-log probability of every token of a document, in windows of `length` that start with the separator."""
    sequence = torch.tensor([separator, *document.tolist()])
    out = []
    for start in range(0, len(sequence) - 1, length):
        window = sequence[start : start + length + 1]
        with torch.inference_mode():
            logits = model(window[None, :-1]).logits[0]
        out.append(torch.log_softmax(logits, -1).gather(1, window[1:, None])[:, 0].numpy())
    return numpy.concatenate(out)

"""Every supported family: what transformers saved is read, computed alike, and written so that transformers reads it."""

import json

import numpy
import pytest
import torch
import transformers
from reference import FAMILIES, random_model, text_tokens, worker_logits, worker_training

TOKENS = text_tokens(200)


def differ(ours, theirs):
    """Largest difference relative to the largest logit."""
    assert ours.shape == theirs.shape
    return float(numpy.abs(ours - theirs).max() / numpy.abs(theirs).max())


def logits_of(model, tokens=TOKENS):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].float().numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_round_trip(family, tmp_path):
    model, folder, written = random_model(family), tmp_path / "theirs", tmp_path / "ours"
    model.save_pretrained(folder)
    theirs = logits_of(model)
    assert differ(worker_logits(folder, TOKENS, tmp_path), theirs) <= 1e-4
    worker_training({"folder": str(folder), "out": str(written), "length": 16, "micro": 1, "batches": [], "training": SETTINGS}, tmp_path)
    back, loading = transformers.AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), loading
    assert type(back) is type(model)
    for (name, ours), (_, weight) in zip(back.state_dict().items(), model.state_dict().items()):
        assert torch.equal(ours, weight), name
    assert differ(logits_of(back.eval()), theirs) <= 1e-6


SETTINGS = {"batch_windows": 1, "learning_rate": 1e-3}


@pytest.mark.parametrize("family", ["llama-grouped", "gemma3", "olmo2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_disk(dtype, family, tmp_path):
    random_model(family).to(dtype).save_pretrained(tmp_path / "half")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype=torch.float32).eval()
    assert differ(worker_logits(tmp_path / "half", TOKENS, tmp_path), logits_of(again)) <= 1e-4


def test_weights_in_several_files(tmp_path):
    model = random_model("mistral")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 3
    assert differ(worker_logits(tmp_path / "sharded", TOKENS, tmp_path), logits_of(model)) <= 1e-4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mixtral"}, "model_type"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "longrope"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"hidden_act": "gelu"}, "hidden_act"),
    ],
)
def test_what_is_not_supported_is_named(change, named, tmp_path):
    random_model("mistral").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(AssertionError, match=named):
        worker_logits(tmp_path, TOKENS, tmp_path)

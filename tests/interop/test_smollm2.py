"""A real pre-trained model: SmolLM2-135M computes here what it computes in transformers."""

import numpy
import torch
import transformers
from reference import worker_logits
from world import REPOSITORY

FOLDER = REPOSITORY / "var" / "demo" / "models" / "smollm2-135m"


def test_it_is_itself_and_computes_alike(tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    tokens = tokenizer.encode("The capital of France is Paris. 日本の首都は東京です。 It was the best of times, ")
    with torch.inference_mode():
        theirs = model(torch.tensor([tokens])).logits[0].numpy()
    assert tokenizer.decode(theirs[4].argmax()) == " Paris"
    ours = worker_logits(FOLDER, tokens, tmp_path)
    assert numpy.abs(ours - theirs).max() <= 1e-4 * numpy.abs(theirs).max()
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()

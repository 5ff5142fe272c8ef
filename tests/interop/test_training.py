"""The same numbers: a reference trainer in plain PyTorch and transformers beside the worker's, step by step."""

import json
import os
import statistics
from pathlib import Path

import pytest
import torch
import transformers
from reference import FAMILIES, random_model, text_tokens, worker_training

LENGTH, WINDOWS, MICRO = 64, 8, 4
SETTINGS = {"batch_windows": WINDOWS, "learning_rate": 2e-3, "schedule": "cosine", "warmup_fraction": 0.1, "final_fraction": 0.1}


def batches(steps):
    """Windows of real text: [steps, WINDOWS * (LENGTH + 1)]."""
    size = WINDOWS * (LENGTH + 1)
    tokens = text_tokens(steps * size)
    return [tokens[i * size : (i + 1) * size] for i in range(steps)]


def reference(model, steps, bf16=False):
    """Losses and gradient norms of training with PyTorch's AdamW, clipping and transformers' schedule."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=SETTINGS["learning_rate"], betas=(0.9, 0.95), eps=1e-8)
    schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer, steps // 10, steps, min_lr_rate=0.1)
    losses, norms = [], []
    for batch in batches(steps):
        windows = torch.tensor(batch).view(WINDOWS, LENGTH + 1)
        total = 0.0
        for part in windows.split(MICRO):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(part[:, :-1]).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) * len(part) / WINDOWS
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        losses.append(total)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses, norms


def ours(folder, steps, tmp_path, **changes):
    job = {"folder": str(folder), "length": LENGTH, "micro": MICRO, "batches": batches(steps), "training": SETTINGS | changes}
    return worker_training(job, tmp_path)


@pytest.mark.parametrize("family", ["llama-grouped", "llama-tied", "qwen2"])
def test_a_hundred_steps_agree(family, tmp_path):
    model = random_model(family)
    model.save_pretrained(tmp_path / "start")
    found = ours(tmp_path / "start", 100, tmp_path)
    losses, norms = reference(model.train(), 100)
    worst = max(abs(a - b) / b for a, b in zip(found["losses"], losses))
    note(family, losses, found["losses"], worst)
    assert losses[-1] < 0.8 * losses[0], "the reference does not learn"
    assert worst <= 1e-4, worst
    assert max(abs(a - b) / b for a, b in zip(found["norms"], norms)) <= 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_steps_of_every_family_agree_and_come_back(family, tmp_path):
    model, written = random_model(family), tmp_path / "ours"
    model.save_pretrained(tmp_path / "start")
    job = {"folder": str(tmp_path / "start"), "out": str(written), "length": LENGTH, "micro": MICRO, "batches": batches(10)}
    found = worker_training(job | {"training": SETTINGS}, tmp_path)
    losses, norms = reference(model.train(), 10)
    assert max(abs(a - b) / b for a, b in zip(found["losses"], losses, strict=True)) <= 1e-4
    assert max(abs(a - b) / b for a, b in zip(found["norms"], norms, strict=True)) <= 1e-2
    back = transformers.AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32)
    after = [loss_of(trained.eval(), batches(11)[-1]) for trained in (back, model)]
    assert abs(after[0] - after[1]) / after[1] <= 1e-4, after


def loss_of(model, batch):
    windows = torch.tensor(batch).view(WINDOWS, LENGTH + 1)
    with torch.inference_mode():
        logits = model(windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()


def note(family, theirs, ours, worst):
    """The table of the last run, for docs."""
    path = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parents[2] / "target")) / "interop" / f"training-{family}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pytorch": theirs, "senmon": ours, "largest_relative_difference": worst}))


def test_bf16_learns_as_much(tmp_path):
    model = random_model("llama-grouped")
    model.save_pretrained(tmp_path / "start")
    found = ours(tmp_path / "start", 200, tmp_path, precision="bf16")["losses"]
    for bf16 in (False, True):
        losses, _ = reference(random_model("llama-grouped").train(), 200, bf16)
        end = statistics.mean(losses[-10:])
        assert abs(statistics.mean(found[-10:]) - end) <= 0.01 * end


@pytest.mark.parametrize("steps", [7, 100, 1234])
@pytest.mark.parametrize("kind", ["linear", "cosine", "warmup_stable_decay", "constant"])
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_schedules_are_those_of_transformers(kind, steps, final, tmp_path):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup, decay = -(-steps // 10), -(-steps // 5)
    schedule = {
        "linear": lambda: transformers.get_polynomial_decay_schedule_with_warmup(optimizer, warmup, steps, lr_end=final, power=1.0),
        "cosine": lambda: transformers.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=final),
        "warmup_stable_decay": lambda: transformers.get_wsd_schedule(
            optimizer, warmup, decay, steps, decay_type="linear", min_lr_ratio=final
        ),
        "constant": lambda: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
    }[kind]()
    theirs = []
    for _ in range(steps):
        theirs.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    settings = SETTINGS | {"learning_rate": 1.0, "schedule": kind, "final_fraction": final}
    found = worker_training({"rates_of_steps": steps, "training": settings}, tmp_path)["rates"]
    assert max(abs(a - b) for a, b in zip(found, theirs, strict=True)) <= 1e-7

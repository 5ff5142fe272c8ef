"""What the tests of the engine share: random models of every family, real text as tokens, the worker's examples."""

import json
import subprocess

import torch
import transformers
from safetensors.numpy import load_file
from world import BUILT, CORPUS

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
# Shorter than what is computed: some of it is not seen.
WINDOW = 48
GEMMA3_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
SMALL = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": None,
}
FAMILIES = {
    "llama": (transformers.LlamaConfig, {}),
    "llama-grouped": (transformers.LlamaConfig, {"num_key_value_heads": 2, "rope_theta": 500000.0}),
    "llama-tied": (transformers.LlamaConfig, {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-head-size": (transformers.LlamaConfig, {"head_dim": 24, "num_key_value_heads": 2}),
    "llama-linear": (transformers.LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    "llama-3": (transformers.LlamaConfig, {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}, "num_key_value_heads": 2}),
    "mistral": (transformers.MistralConfig, {"num_key_value_heads": 2, "sliding_window": None}),
    "mistral-head-size": (transformers.MistralConfig, {"num_key_value_heads": 2, "head_dim": 32, "sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 2}),
    "qwen2-tied": (transformers.Qwen2Config, {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-yarn": (transformers.LlamaConfig, {"rope_parameters": YARN, "num_key_value_heads": 2}),
    "llama-yarn-sharp": (
        transformers.LlamaConfig,
        {"rope_parameters": YARN | {"attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 0.5, "truncate": False}},
    ),
    "mistral-window": (transformers.MistralConfig, {"num_key_value_heads": 2, "sliding_window": WINDOW}),
    "mistral-wide": (transformers.MistralConfig, {"num_key_value_heads": 2, "sliding_window": 4096}),
    "qwen3": (transformers.Qwen3Config, {"num_key_value_heads": 2, "head_dim": 24}),
    "qwen3-window": (
        transformers.Qwen3Config,
        {"num_key_value_heads": 2, "head_dim": 16, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "gemma2": (
        transformers.Gemma2Config,
        {"num_key_value_heads": 2, "head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": WINDOW},
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        {"num_key_value_heads": 2, "head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": WINDOW, "layer_types": GEMMA3_LAYERS},
    ),
    "gemma3-scaled": (
        transformers.Gemma3TextConfig,
        {
            "num_key_value_heads": 1,
            "head_dim": 16,
            "sliding_window": WINDOW,
            "layer_types": GEMMA3_LAYERS,
            "final_logit_softcapping": 20.0,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
    ),
    "olmo2": (transformers.Olmo2Config, {"num_key_value_heads": 2}),
    "smollm3": (transformers.SmolLM3Config, {"num_key_value_heads": 2, "no_rope_layers": [1, 0, 1]}),
}


def random_model(family, seed=1):
    """A model of a family in which no weight is at its resting place: norms and biases are random too."""
    config, changes = FAMILIES[family]
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config(**(SMALL | changes)), dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:
                parameter.mul_(3.0)
    return model.eval()


def text_tokens(count):
    """Real text, a byte a token."""
    path = sorted(path for path in CORPUS.rglob("*.jsonl") if path.stat().st_size > 2 * count)[0]
    with path.open() as lines:
        text = "\n".join(json.loads(line)["text"] for line, _ in zip(lines, range(2000)))
    return list(text.encode()[:count])


def worker_logits(folder, tokens, tmp_path):
    """Logits by the worker's own code: [tokens, vocabulary]."""
    out = tmp_path / "logits.safetensors"
    example("logits", folder, ",".join(map(str, tokens)), out)
    return load_file(out)["logits"]


def worker_training(job, tmp_path):
    """Losses, gradient norms and rates of training by the worker's own code."""
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))
    return json.loads(example("train_steps", path))


def example(name, *arguments):
    command = [str(BUILT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

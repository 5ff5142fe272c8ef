"""The PyTorch side of `make bench-gpu`: the same model as plain PyTorch on a card, eager or under torch.compile.

Usage: contestant_gpu.py CONFIG eager|compile WINDOWS MICRO LENGTH STEPS. bf16 by autocast, fp32 weights, fused AdamW,
clipping at 1.0; tokens come from pinned memory, the loss is read every step. Prints one JSON object.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        h, i, self.n = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"]
        self.g = c.get("num_key_value_heads") or self.n
        self.d = h // self.n
        self.eps = c.get("rms_norm_eps", 1e-5)
        self.norm, self.norm_middle = nn.Parameter(torch.ones(h)), nn.Parameter(torch.ones(h))
        self.q = nn.Linear(h, self.n * self.d, bias=False)
        self.k = nn.Linear(h, self.g * self.d, bias=False)
        self.v = nn.Linear(h, self.g * self.d, bias=False)
        self.o = nn.Linear(self.n * self.d, h, bias=False)
        self.gate, self.up = nn.Linear(h, i, bias=False), nn.Linear(h, i, bias=False)
        self.down = nn.Linear(i, h, bias=False)

    def forward(self, x, cos, sin):
        b, t, h = x.shape
        y = F.rms_norm(x, (h,), self.norm.to(x.dtype), self.eps)
        heads = lambda z, n: z.view(b, t, n, self.d).transpose(1, 2)
        q, k, v = heads(self.q(y), self.n), heads(self.k(y), self.g), heads(self.v(y), self.g)
        turn = lambda z: torch.cat([-z[..., self.d // 2 :], z[..., : self.d // 2]], -1)
        q, k = (q * cos + turn(q) * sin).to(v.dtype), (k * cos + turn(k) * sin).to(v.dtype)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.g != self.n)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1))
        y = F.rms_norm(x, (h,), self.norm_middle.to(x.dtype), self.eps)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Llama(nn.Module):
    def __init__(self, c, length):
        super().__init__()
        h, v, self.eps = c["hidden_size"], c["vocab_size"], c.get("rms_norm_eps", 1e-5)
        self.embed = nn.Embedding(v, h)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        self.norm = nn.Parameter(torch.ones(h))
        self.head = nn.Linear(h, v, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        if c.get("tie_word_embeddings"):
            self.head.weight = self.embed.weight
        d = h // c["num_attention_heads"]
        inverse = c.get("rope_theta", 10000.0) ** (-torch.arange(0, d, 2).float() / d)
        angles = torch.outer(torch.arange(length).float(), inverse).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        if torch.is_autocast_enabled("cuda"):
            x = x.to(torch.bfloat16)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = self.head(F.rms_norm(x, x.shape[-1:], self.norm.to(x.dtype), self.eps))
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.reshape(-1), reduction="sum")


def main():
    config, mode, *sizes = sys.argv[1:]
    windows, micro, length, steps = map(int, sizes)
    torch.manual_seed(1)
    with open(config) as file:
        c = json.load(file)
    with torch.device("cuda"):
        model = Llama(c, length)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    i = torch.arange(windows * (length + 1), dtype=torch.int64)
    tokens = ((i * i + i // 7) % c["vocab_size"]).view(windows, length + 1)
    run = torch.compile(model) if mode == "compile" else model
    count = windows * length

    def step():
        total = 0.0
        for first in range(0, windows, micro):
            part = tokens[first : first + micro]
            inputs = part[:, :-1].contiguous().pin_memory().cuda(non_blocking=True)
            targets = part[:, 1:].contiguous().pin_memory().cuda(non_blocking=True)
            with torch.autocast("cuda", torch.bfloat16):
                loss = run(inputs, targets)
            (loss / count).backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total.item() / count

    seconds, losses = [], []
    for _ in range(steps):
        start = time.perf_counter()
        losses.append(step())
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    late = sorted(seconds[steps // 3 :])
    median = late[len(late) // 2]
    free, total = torch.cuda.mem_get_info()
    about = {"who": mode, "tokens_per_second": count / median, "step_ms": median * 1e3, "memory_gib": (total - free) / 2**30}
    print(json.dumps(about | {"loss_first": losses[0], "loss_last": losses[-1], "torch": torch.__version__}))


main()

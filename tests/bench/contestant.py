"""The PyTorch side of `make bench-train`: the same model as plain PyTorch, eager or under torch.compile.

Usage: contestant.py CONFIG fp32|bf16 eager|compile WINDOWS LENGTH THREADS. Speaks the protocol of
worker/engine/examples/bench_train.rs: one JSON object a line, a few steps for each line on standard input.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

STEPS = 4


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
        y = F.rms_norm(x, (h,), self.norm, self.eps)
        heads = lambda z, n: z.view(b, t, n, self.d).transpose(1, 2)
        q, k, v = heads(self.q(y), self.n), heads(self.k(y), self.g), heads(self.v(y), self.g)
        turn = lambda z: torch.cat([-z[..., self.d // 2 :], z[..., : self.d // 2]], -1)
        q, k = q * cos + turn(q) * sin, k * cos + turn(k) * sin
        # The mathematics of attention is the same for every kernel; PyTorch chooses.
        a = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True, enable_gqa=self.g != self.n)
        x = x + self.o(a.transpose(1, 2).reshape(b, t, -1))
        y = F.rms_norm(x, (h,), self.norm_middle, self.eps)
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
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.head(F.rms_norm(x, x.shape[-1:], self.norm, self.eps))
        return F.cross_entropy(logits.float().view(-1, logits.shape[-1]), targets.reshape(-1))


def peak_bytes():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def main():
    config, precision, mode, windows, length, threads = sys.argv[1:]
    windows, length = int(windows), int(length)
    torch.set_num_threads(int(threads))
    torch.manual_seed(1)
    with open(config) as file:
        model = Llama(json.load(file), length)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), fused=True)
    vocab = model.embed.weight.shape[0]
    tokens = torch.tensor([(i * i + i // 7) % vocab for i in range(windows * (length + 1))]).view(windows, length + 1)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    run = torch.compile(model) if mode == "compile" else model

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = run(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    for _ in sys.stdin:
        seconds = []
        for _ in range(STEPS):
            start = time.perf_counter()
            loss = step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "loss": loss, "peak_bytes": peak_bytes()}), flush=True)


main()

"""A worker on a card, end to end: an experiment whose worker is killed in its middle, and one whose passes need more
memory than there is. Usage: e2e.py ROOT DEVICE; ROOT/target/release has the programs, ROOT/pg/bin Postgres where the
system has none. With `cpu` the first runs alone, on few tokens: a trial of this script. Prints what became of both; ends
with 1 where either is not complete.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT, DEVICE = Path(sys.argv[1]).resolve(), sys.argv[2]
BIN = ROOT / "target" / "release"
WORK = Path(tempfile.mkdtemp(prefix="senmon-gpu-"))
PORT = 18080
START = time.time()
CARD = DEVICE != "cpu"
COMMON = """
corpus: made
clustering: { domains: 2, sample_documents: 2000, seed: 11, features: { kind: tfidf_svd, dimensions: 16 } }
tokenizer: { kind: train, vocab_size: 1024, sample_documents: 2000 }
controls: { dense: false, random_split: false }
evaluation: { documents_per_domain: 10, top_k: [1], temperatures: [0.1] }
weight_average: false
"""
KILLED = COMMON + """
name: killed
model: { hidden_size: 256, intermediate_size: 704, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 512 }
data: { sequence_length: 256, epochs_max: 40 }
training: { batch_windows: 32, learning_rate: 0.002, precision: bf16, checkpoint_every_steps: 200, log_every_steps: 20 }
seed: { kind: train, tokens: %s }
plan: [{ kind: fan_out, tokens: %s, share: proportional }]
"""
CRAMPED = COMMON + """
name: cramped
model: { hidden_size: 1024, intermediate_size: 3072, num_hidden_layers: 8, num_attention_heads: 16, num_key_value_heads: 4, max_position_embeddings: 1024 }
data: { sequence_length: 1024 }
training: { batch_windows: 512, learning_rate: 0.0003, precision: bf16, log_every_steps: 1 }
seed: { kind: train, tokens: 2M }
plan: [{ kind: tree, branches: [{ name: all, parent: seed, mixture: { 0: 1, 1: 1 }, tokens: 1M }] }]
"""


def say(*words):
    print(f"[{time.time() - START:6.1f}]", *words, flush=True)


def corpus(path):
    """Documents of two kinds of made-up words; enough tokens for the budgets."""
    rng = random.Random(7)
    words = [["".join(rng.choices("abcdefghij" if k else "klmnopqrst", k=rng.randint(2, 8))) for _ in range(600)] for k in (0, 1)]
    with open(path, "w") as file:
        for number in range(9000):
            kind = number % 2
            text = " ".join(words[kind][min(int(rng.expovariate(0.02)), 599)] for _ in range(250))
            file.write(json.dumps({"id": str(number), "source": str(kind), "text": text}) + "\n")


def spawn(program, log, *arguments):
    return subprocess.Popen([BIN / program, *arguments], stdout=open(WORK / log, "a"), stderr=subprocess.STDOUT)


def command(*arguments, **options):
    line = [BIN / "senmon", "--server", f"http://127.0.0.1:{PORT}", "--token-file", WORK / "server" / "admin-token", *arguments]
    return subprocess.run(line, capture_output=True, text=True, **options)


def latest():
    page = json.loads(command("ls", "-o", "json").stdout)
    return (page.get("items", page) if isinstance(page, dict) else page)[0]


def worker():
    return spawn("senmon-worker", "worker.log", "--config", WORK / "worker.toml")


def main():
    os.chmod(WORK, 0o755)
    (WORK / "corpus").mkdir()
    corpus(WORK / "corpus" / "made.jsonl")
    postgres = f'postgres_bin = "{ROOT}/pg/bin"\n' if (ROOT / "pg" / "bin").exists() else ""
    (WORK / "server.toml").write_text(
        f'listen = "127.0.0.1:{PORT}"\ndata_dir = "{WORK}/server"\ncorpus_roots = ["{WORK}/corpus"]\n{postgres}'
    )
    (WORK / "worker.toml").write_text(
        f'server_url = "http://127.0.0.1:{PORT}"\ntoken_file = "{WORK}/server/worker-token"\nname = "gpu"\n'
        f'state_dir = "{WORK}/worker"\nslots = [{{ device = "{DEVICE}", threads = 8 }}]\n'
    )
    server = spawn("senmon-server", "server.log", "--config", WORK / "server.toml")
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=1)
            break
        except OSError:
            time.sleep(0.2)
    say("server ready")
    running, well = worker(), True
    try:
        added = command("corpus", "add", "made", str(WORK / "corpus"), "--id-field", "id", "--source-field", "source", "--wait")
        say("corpus", added.stdout.strip().splitlines()[-1:] or added.stderr[-500:])
        (WORK / "killed.yaml").write_text(KILLED % (("20M", "1M") if CARD else ("400K", "100K")))
        began = time.time()
        follow = subprocess.Popen(
            [BIN / "senmon", "--server", f"http://127.0.0.1:{PORT}", "--token-file", WORK / "server" / "admin-token", "run",
             WORK / "killed.yaml", "--follow"], stdout=open(WORK / "follow.log", "w"), stderr=subprocess.STDOUT)
        killed = False
        while follow.poll() is None and time.time() - began < 70:
            time.sleep(0.5)
            try:
                now = latest()
            except (ValueError, IndexError):
                continue
            if not killed and now.get("tokens_done", 0) > 0.25 * now.get("tokens_total", 1) and now["state"] == "running":
                running.send_signal(signal.SIGKILL)
                running.wait()
                say("worker killed at", now["tokens_done"], "of", now["tokens_total"], "tokens")
                running, killed = worker(), True
        state = latest()["state"]
        well &= state == "completed" and killed
        say("killed:", state, f"{time.time() - began:.1f} s, killed {killed}")
        print((WORK / "follow.log").read_text()[-600:])
        print(command("events").stdout[-2500:])
        if CARD:
            (WORK / "cramped.yaml").write_text(CRAMPED)
            began = time.time()
            command("run", str(WORK / "cramped.yaml"), "--follow", timeout=70)
            state = latest()["state"]
            well &= state == "completed"
            say("cramped:", state, f"{time.time() - began:.1f} s")
            print(command("events").stdout[-1800:])
    finally:
        running.terminate()
        server.terminate()
        for process in (running, server):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        print("worker.log:", (WORK / "worker.log").read_text()[-1500:])
    sys.exit(0 if well else 1)


main()

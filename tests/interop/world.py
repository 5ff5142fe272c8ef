"""A running Senmon for the tests: server and worker of this build, one small experiment run to its end.

Speaks only HTTP and files, as any other program would.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "debug"
SOURCES = ("numerics-ja", "unixman-ja", "novel-en", "scripture-en")  # plain .jsonl files of the demo corpus
CORPUS = REPOSITORY / "var" / "demo" / "corpus"
DOCUMENTS = 150  # of each source

EXPERIMENT = {
    "name": "interop",
    "corpus": "small",
    "clustering": {"domains": 3, "features": {"kind": "tfidf_svd", "dimensions": 16}},
    "tokenizer": {"kind": "train", "vocab_size": 512, "sample_documents": 300},
    "model": {
        "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 5000.0,
        "tie_word_embeddings": True,
    },
    "data": {"sequence_length": 64, "held_out_fraction": 0.1, "epochs_max": 20},
    "training": {"batch_windows": 8, "learning_rate": 0.003, "deterministic": True, "checkpoint_every_steps": 40},
    "seed": {"kind": "train", "tokens": 61440},
    "plan": [{"kind": "fan_out", "tokens": 61440}],
    "controls": {"dense": True, "random_split": False},
    "evaluation": {"documents_per_domain": 6, "top_k": [1, 3], "temperatures": [0.1, 0.5]},
}  # fmt: skip


class World:
    """Server, worker, client."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.processes = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.folder.chmod(0o755)  # Postgres may run as another user

    @property
    def storage(self):
        return self.folder / "server" / "storage"

    def start(self):
        self.write_corpus()
        server = {
            "listen": self.url.removeprefix("http://"),
            "data_dir": str(self.folder / "server"),
            "corpus_roots": [str(self.folder / "corpus"), str(CORPUS)],
        }
        self.spawn("senmon-server", server)
        self.until("the server is ready", 60, lambda: self.answers("/readyz"))
        self.token = (self.folder / "server" / "admin-token").read_text().strip()
        worker = {
            "server_url": self.url,
            "token_file": str(self.folder / "server" / "worker-token"),
            "name": "interop",
            "state_dir": str(self.folder / "worker"),
        }
        self.spawn("senmon-worker", worker, 'slots = [{ device = "cpu", threads = 1 }, { device = "cpu", threads = 1 }]\n')
        self.register("small", self.folder / "corpus")

    def register(self, name, folder):
        fields = {"text": "text", "id": "id", "source": "source"}
        corpus = self.post("/api/v1/corpora", {"name": name, "paths": [str(folder)], "fields": fields})
        self.until("the corpus is scanned", 60, lambda: self.state(f"/api/v1/corpora/{corpus['id']}", "ready"))

    def write_corpus(self):
        (self.folder / "corpus").mkdir()
        for source in SOURCES:
            with open(CORPUS / f"{source}.jsonl", encoding="utf-8") as lines:
                head = [line for line, _ in zip(lines, range(DOCUMENTS))]
            (self.folder / "corpus" / f"{source}.jsonl").write_text("".join(head), encoding="utf-8")

    def documents(self):
        """The corpus as written: id to text."""
        found = {}
        for path in sorted((self.folder / "corpus").iterdir()):
            records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
            found |= {record["id"]: record["text"] for record in records}
        return found

    def run(self, experiment, limit_s=300):
        """Submits an experiment and waits for its end."""
        submitted = self.post("/api/v1/experiments", experiment)
        path = f"/api/v1/experiments/{summary(submitted)['id']}"
        self.until("the experiment is completed", limit_s, lambda: self.state(path, "completed"))
        return self.get(path)

    def state(self, path, wanted):
        found = summary(self.get(path))
        if found["state"] in ("failed", "cancelled"):
            raise AssertionError(f"{path} {found['state']}: {found}\n{self.logs()}")
        return found["state"] == wanted

    def get(self, path):
        return self.call("GET", path)

    def post(self, path, body):
        return self.call("POST", path, body)

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from error

    def answers(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def until(self, what, limit_s, ask):
        start = time.monotonic()
        while not ask():
            dead = [p.args[0] for p in self.processes if p.poll() is not None]
            if dead or time.monotonic() - start > limit_s:
                raise AssertionError(f"not within {limit_s} s: {what}; ended: {dead}\n{self.logs()}")
            time.sleep(0.2)

    def spawn(self, program, config, more=""):
        path = self.folder / f"{program}.toml"
        path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()) + more)
        binary = BUILT / program
        if not binary.exists():
            raise AssertionError(f"{binary} is not built; run make test-interop")
        with open(self.folder / f"{program}.log", "ab") as log:
            command = [str(binary), "--config", str(path)]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def logs(self):
        tails = (path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))
        return "\n--- next process ---\n".join(tails)

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def summary(view):
    """The part with id and state, whichever view it is."""
    return view.get("summary", view)

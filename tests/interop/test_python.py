"""The Python client against the API's description, and against a real server, worker and experiment.

What needs no server is in test_python_alone.py and test_python_package.py.
"""

import copy
import hashlib
import itertools
import json
import math
import os
import threading
from pathlib import Path

import cutting
import nbclient
import nbformat
import pandas
import pytest
import senmon
import torch
import transformers
import world as worlds
from contract import Contract
from senmon import download, operations, transport, types

CLIENT = worlds.REPOSITORY / "server" / "python"
NOTEBOOK = CLIENT / "examples" / "first_steps.ipynb"
NO_ID = "00000000-0000-7000-8000-000000000000"


# The contract.


def document():
    return json.loads((worlds.REPOSITORY / "server" / "openapi.json").read_text())


def faults(described):
    contract = Contract(described)
    for name, operation in operations.ALL.items():
        contract.operation(name, operation)
    for name in types.__all__:
        kind = getattr(types, name)
        if hasattr(kind, "__required_keys__") and name != "Page":
            contract.fits(name, kind, {"$ref": f"#/components/schemas/{name}"})
    return contract.faults


def test_the_client_is_what_the_description_says():
    assert faults(document()) == []


def test_every_operation_of_the_table_is_used():
    source = "".join(path.read_text() for path in (CLIENT / "src" / "senmon").glob("*.py") if path.name != "operations.py")
    assert [name for name in operations.ALL if f"operations.{name}" not in source] == []
    assert "/api/v1" not in source.replace('f"{reach.base}/api/v1/"', "")


def schema(described, name):
    return described["components"]["schemas"][name]


BREAKS = {
    "no 'sparkline'": lambda d: schema(d, "BranchView")["properties"].pop("sparkline"),
    "BranchView.state: required: the document says False": lambda d: schema(d, "BranchView")["required"].remove("state"),
    "BranchView.step: found": lambda d: schema(d, "BranchView")["properties"].update(step={"type": "string"}),
    "BranchView.loss: None": lambda d: schema(d, "BranchView")["properties"].update(loss={"type": "number"}),
    "BranchView.state: found": lambda d: schema(d, "BranchState")["enum"].append("asleep"),
    "always has 'mood'": lambda d: (
        schema(d, "CorpusView")["properties"].update(mood={"type": "string"}),
        schema(d, "CorpusView")["required"].append("mood"),
    ),
    "no 'text'": lambda d: schema(d, "EventView")["properties"].pop("text"),
    "no 'tokens'": lambda d: schema(d, "StreamMetrics")["properties"].pop("tokens"),
    "RegisterCorpus.fields: required": lambda d: schema(d, "RegisterCorpus")["required"].append("fields"),
    "no parameter 'points_max'": lambda d: d["paths"]["/api/v1/branches/{id}/metrics"]["get"]["parameters"].pop(2),
    "no GET /stream": lambda d: d["paths"].pop("/api/v1/stream"),
    "no POST /experiments/{id}/cancel": lambda d: d["paths"]["/api/v1/experiments/{id}/cancel"].pop("post"),
    "Idempotency-Key": lambda d: d["paths"]["/api/v1/corpora"]["post"]["parameters"].clear(),
    "PLAN answer": lambda d: d["paths"]["/api/v1/plan"]["post"]["responses"]["200"]["content"]["application/json"].update(
        schema={"$ref": "#/components/schemas/Report"}
    ),
}


@pytest.mark.parametrize("expected", BREAKS)
def test_a_description_that_moved_is_noticed(expected):
    described = copy.deepcopy(document())
    BREAKS[expected](described)
    found = faults(described)
    assert any(expected in fault for fault in found), found


# An experiment, from its plan to its experts.


def test_a_plan_says_what_would_be_done(watched):
    assert watched.plan["refused"] == []
    names = {branch["name"] for branch in watched.plan["branches"]}
    assert {"seed", "expert-0", "dense"} <= names
    assert watched.plan["parameters"] > 10_000


def test_a_plan_says_what_would_be_refused(client):
    plan = client.plan(worlds.EXPERIMENT | {"corpus": "nowhere", "priority": 101})
    assert {fault["path"] for fault in plan["refused"]} == {"priority"}
    assert "corpus" in {fault["path"] for fault in plan["warnings"]}  # a plan needs none


def test_the_plan_of_a_yaml_file_is_that_of_its_dict(client, watched, tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text(client.spec(watched.done))
    assert "rms_norm_eps: 1e-6" in file.read_text()  # a text to YAML 1.1, a number to the server
    again = client.plan(file)
    assert again == client.plan(str(file)) and again["refused"] == []
    assert [b["name"] for b in again["branches"]] == [b["name"] for b in client.plan(worlds.EXPERIMENT)["branches"]]


def test_waiting_tells_each_change_and_ends_with_the_experiment(watched):
    states = [view["state"] for view in watched.progress]
    assert states[-1] == watched.done["state"] == "completed" and set(states[:-1]) <= {"running"}
    assert all(a != b for a, b in itertools.pairwise(watched.progress))
    assert watched.submitted["id"] == watched.done["id"]


def test_the_stream_brings_every_point_once(client, watched):
    assert watched.points_early > 0, "nothing came before the end"
    found = client.metrics_of(watched.done, points_max=10_000)
    streamed = senmon.latest(watched.points)
    assert sum(map(len, streamed.values())) == len(watched.points), "a point came twice"
    assert {points[0].branch for points in streamed.values()} == set(found)
    for points in streamed.values():
        metrics = found[points[0].branch]
        assert [p.step for p in points] == metrics.steps
        assert [p.tokens for p in points] == metrics.tokens
        assert [p.values["train/loss"] for p in points] == metrics.columns()["train/loss"]


def test_a_stream_of_what_is_over_ends(client, experiment):
    branch = "interop/expert-0"
    points = list(client.stream(branch=branch, keys=["train/loss"]))
    assert [p.step for p in points] == client.metrics(branch).steps
    assert all(set(p.values) == {"train/loss"} and p.branch == "expert-0" for p in points)
    assert list(client.stream(experiment, past=False)) == []


def test_curves_become_data_frames(client, experiment):
    metrics = client.metrics("interop/dense")
    frame = metrics.frame()
    assert frame.index.name == "step" and list(frame.index) == metrics.steps
    assert {"tokens", "at", "train/loss"} <= set(frame.columns) and frame["train/loss"].dtype == "float64"
    assert str(frame["at"].dt.tz) == "UTC" and frame["train/loss"].iloc[-1] < frame["train/loss"].iloc[0]
    assert len(metrics.rows()) == len(metrics) and metrics.rows()[0]["train/loss"] == frame["train/loss"].iloc[0]
    whole = senmon.frame(client.metrics_of(experiment))
    assert whole.index.names == ["branch", "step"]
    pandas.testing.assert_series_equal(whole.loc["dense"]["train/loss"], frame["train/loss"])
    pandas.testing.assert_frame_equal(whole, senmon.frame(client.stream(experiment)), check_like=True)


def test_folded_curves_have_bounds(client, experiment):
    folded = client.metrics("interop/dense", keys=["train/loss"], points_max=5)
    frame = folded.frame(bounds=True)
    assert 0 < len(frame) <= 5 and set(frame.columns) == {"tokens", "at", "train/loss", "train/loss_min", "train/loss_max"}
    assert (frame["train/loss_min"] <= frame["train/loss"]).all() and (frame["train/loss"] <= frame["train/loss_max"]).all()


def test_the_report_has_a_headline(client, experiment):
    report = client.report(experiment)
    assert report["experiment_id"] == experiment["id"] and report["headline"]


def test_lists_are_read_in_pages(client, experiment, monkeypatch):
    whole = client.checkpoints(experiment=experiment)
    monkeypatch.setattr(transport, "PAGE_MAX", 2)
    assert len(whole) > 4 and client.checkpoints(experiment="interop") == whole
    assert client.checkpoints(limit=3) == whole[:3]
    assert {b["name"] for b in client.branches(experiment)} == {b["name"] for b in experiment["branches"]}
    assert [b["name"] for b in client.branches("interop", q="EXPERT-1", state=["completed", "failed"])] == ["expert-1"]
    assert [c["name"] for c in client.corpora(q="sma", state="ready")] == ["small"]


def test_an_expert_is_downloaded_and_loaded(world, client, experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = []
    expert = client.load_expert("interop/expert-0", dtype=torch.float32, progress=lambda *there: told.append(there))
    assert told[-1][0] == told[-1][1] == sum(p.stat().st_size for p in expert.folder.iterdir() if p.name != "manifest.json")
    assert not any(name.name in download.TRAINER_FILES for name in expert.folder.iterdir())
    original = world.storage / expert.checkpoint["folder"]
    assert all((original / p.name).read_bytes() == p.read_bytes() for p in expert.folder.iterdir())
    prompt = expert.tokenizer("And it came", return_tensors="pt", add_special_tokens=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32).eval()
    with torch.inference_mode():
        assert torch.equal(expert.model(**prompt).logits, theirs(**prompt).logits)
    # What is there is not fetched again.
    told.clear()
    again = client.load_expert(checkpoint=expert.checkpoint, progress=lambda *there: told.append(there))
    assert again.folder == expert.folder and told == []


# What breaks.


@pytest.fixture
def proxy(world):
    cutting_proxy = cutting.Cutting(int(world.url.rsplit(":", 1)[1]))
    yield cutting_proxy
    cutting_proxy.close()


def test_a_download_that_is_cut_goes_on_where_it_was(world, proxy, experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES_MAX", 1)
    checkpoint = experiment["branches"][1]["checkpoint_id"]
    with senmon.Client(proxy.url, world.token) as client:
        view = client.checkpoint(checkpoint)
    original = world.storage / view["folder"] / "model.safetensors"
    bytes_whole = original.stat().st_size
    with senmon.Client(proxy.url, world.token) as client:
        # One connection for the two small requests and the file, cut in the middle of that; then nothing more comes.
        small = len((original.parent / "manifest.json").read_bytes())
        proxy.cuts = [small + bytes_whole // 2, 0]
        with pytest.raises(senmon.DownloadError, match=f"of {bytes_whole} bytes came.*download again"):
            client.download(checkpoint, tmp_path, files=["model.safetensors"])
    part = tmp_path / "model.safetensors.part"
    there = part.stat().st_size
    assert 0 < there < bytes_whole and not (tmp_path / "manifest.json").exists()
    proxy.requests.clear()
    with senmon.Client(proxy.url, world.token) as client:
        client.download(checkpoint, tmp_path, files=["model.safetensors"])
    (asked,) = [request for request in proxy.requests if "model.safetensors" in request]
    assert f"range: bytes={there}-" in asked.lower()
    assert (tmp_path / "model.safetensors").read_bytes() == original.read_bytes() and not part.exists()


def test_a_download_goes_on_by_itself(world, proxy, experiment, tmp_path):
    with senmon.Client(proxy.url, world.token) as client:
        view = client.checkpoint(experiment["branches"][1]["checkpoint_id"])
        proxy.cuts = [60_000, 30_000, 30_000]
        client.download(view, tmp_path, files="all")
    ranges = [request for request in proxy.requests if "\r\nrange:" in request.lower()]
    assert proxy.cuts == [] and ranges
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == entry["sha256"]


def test_a_part_of_something_else_is_fetched_anew(client, experiment, tmp_path):
    checkpoint = experiment["branches"][1]["checkpoint_id"]
    (tmp_path / "config.json.part").write_bytes(b"else")
    (tmp_path / "tokenizer.json").write_bytes(b"old")
    client.download(checkpoint, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for name in ("config.json", "tokenizer.json"):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == manifest["files"][name]["sha256"]


def test_a_damaged_file_is_refused(world, client, experiment, tmp_path):
    view = client.last_checkpoint("interop/average")
    original = world.storage / view["folder"] / "config.json"
    whole = original.read_bytes()
    try:
        original.write_bytes(b"}" + whole[1:])
        with pytest.raises(senmon.ChecksumError, match="config.json: found SHA-256 .*, expected "):
            client.download(view, tmp_path)
    finally:
        original.write_bytes(whole)
    assert not (tmp_path / "config.json").exists() and not (tmp_path / "manifest.json").exists()


def test_what_was_done_is_not_done_again_when_its_answer_is_lost(world, proxy, client):
    fields = {"text": "text", "id": "id"}
    with senmon.Client(proxy.url, world.token) as cut:
        proxy.cuts = [20]
        added = cut.add_corpus("answer-lost", [str(world.folder / "corpus" / "novel-en.jsonl")], fields=fields)
    posts = [request for request in proxy.requests if request.startswith("POST /api/v1/corpora")]
    keys = {line for request in posts for line in request.lower().split("\r\n") if line.startswith("idempotency-key")}
    assert len(posts) == 2 and len(keys) == 1 and proxy.cuts == []
    ready = client.wait_corpus("answer-lost", timeout_s=60)
    assert ready["id"] == added["id"] and ready["counts"]["documents"] > 0


def test_a_stream_survives_a_cut(world, proxy, client, experiment):
    with senmon.Client(proxy.url, world.token) as cut:
        proxy.cuts = [100_000, 0]
        points = list(cut.stream(experiment, keys=["train/loss"]))
    assert {p.branch: p.step for p in points} == {name: m.steps[-1] for name, m in client.metrics_of(experiment).items()}


def test_faults_are_named_by_path(client, tmp_path):
    wrong = copy.deepcopy(worlds.EXPERIMENT) | {"corpus": "nowhere"}
    wrong["training"]["learning_rate"] = -1
    with pytest.raises(senmon.InvalidInputError) as caught:
        client.submit(wrong)
    assert caught.value.status == 422 and caught.value.code == "invalid_input" and caught.value.request_id
    assert set(caught.value.faults_by_path) == {"corpus", "training.learning_rate"}
    assert "found -1" in caught.value.faults_by_path["training.learning_rate"] and "nowhere" in str(caught.value)
    # A file goes as it is: it is the server that reads it.
    file = tmp_path / "wrong.yml"
    file.write_text("name: x\ncorpus: small\nclustering: { domain: 3 }\n")
    with pytest.raises(senmon.InvalidInputError, match="`domains`") as caught:
        client.submit(file)
    assert list(caught.value.faults_by_path) == ["clustering.domain"] or "clustering" in str(caught.value)


def test_who_is_not_known_is_refused(world, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with senmon.Client(world.url, "wrong") as client, pytest.raises(senmon.UnauthenticatedError, match="not accepted"):
        client.experiments()
    monkeypatch.delenv("SENMON_TOKEN", raising=False)
    with senmon.Client(world.url) as client, pytest.raises(senmon.UnauthenticatedError, match="no token was given"):
        client.experiments()


def test_what_is_not_there_is_said(client, experiment):
    for ask in (client.experiment, client.branch, client.checkpoint, client.corpus):
        with pytest.raises(senmon.NotFoundError) as caught:
            ask(NO_ID)
        assert caught.value.status == 404
    with pytest.raises(senmon.NotFoundError, match="expected an id, or the name of one"):
        client.experiment("nowhere")
    with pytest.raises(senmon.NotFoundError, match="expert-0"):
        client.branch("interop/nobody")
    with pytest.raises(senmon.ConfigurationError, match=r"files: found 'nothing', expected some of \['config.json'"):
        client.download(client.last_checkpoint("interop/seed"), "/nonexistent", files=["nothing"])


def test_a_cancelled_experiment_ends_a_wait(client, experiment, tmp_path):
    file = tmp_path / "cancelled.json"
    file.write_text(json.dumps(worlds.EXPERIMENT | {"name": "cancelled"}))
    submitted = client.submit(file, idempotency_key="cancelled-once")
    assert client.submit(file, idempotency_key="cancelled-once")["id"] == submitted["id"]
    assert client.pause("cancelled")["state"] == "paused"
    with pytest.raises(senmon.WaitTimeoutError, match="not over after 0.2 s"):
        client.wait("cancelled", timeout_s=0.2, poll_s=0.1)
    assert client.resume(submitted)["state"] == "running"
    threading.Timer(0.5, client.cancel, ["cancelled"]).start()
    with pytest.raises(senmon.ExperimentFailedError, match="experiment cancelled cancelled") as caught:
        client.wait(submitted, timeout_s=60)
    assert caught.value.state == "cancelled"
    with pytest.raises(senmon.ConflictError):
        client.cancel(submitted)


def test_a_refused_corpus_says_why(world, client):
    folder = world.folder / "corpus"
    added = client.add_corpus("refused", [str(folder)], fields={"text": "no-such-field"})
    with pytest.raises(senmon.CorpusFailedError, match="no-such-field") as caught:
        client.wait_corpus(added, timeout_s=60)
    assert caught.value.corpus["state"] == "failed"


def test_a_value_that_is_not_finite_is_nan(client, experiment):
    view = client.metrics("interop/seed", keys=["train/loss"])
    view.series["train/loss"]["mean"][0] = None
    assert math.isnan(view.rows()[0]["train/loss"]) and math.isnan(view.frame()["train/loss"].iloc[0])


# The notebook.


def test_the_example_notebook_runs(world, experiment, tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    environment = {
        "SENMON_SERVER": world.url,
        "SENMON_TOKEN": world.token,
        "SENMON_EXAMPLE_CORPUS": "small",
        "PYTHONPATH": str(CLIENT / "src"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    where = {"metadata": {"path": str(tmp_path)}}
    try:
        nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise AssertionError(f"{error}\n{world.logs()}") from error
    text = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "report" in text and "100 %" in text and "MissingPackage" not in text
    assert os.listdir(tmp_path / "cache" / "senmon" / "checkpoints")
    assert not list(Path(NOTEBOOK).parent.glob("*.part"))


def test_labels_and_a_note_are_changed_when_it_is_over(client, experiment):
    view = client.change(experiment, labels=["team=speech", "keep"], note="It **works**.")
    assert view["labels"] == ["team=speech", "keep"] and view["note"] == "It **works**."
    assert [found["id"] for found in client.experiments(labels=["keep", "team=speech"])] == [experiment["id"]]
    with pytest.raises(senmon.InvalidInputError) as caught:
        client.change(experiment, labels=["a,b"])
    assert list(caught.value.faults_by_path) == ["labels[0]"]
    with pytest.raises(senmon.ConflictError):
        client.change(experiment, priority=3)
    assert client.change(experiment, note="")["note"] == ""

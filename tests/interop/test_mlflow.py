"""MLflow: an experiment written to its real server, and Senmon read by its real client."""

import math
import os
import socket
import subprocess
import sys
import time
import urllib.request

import mlflow
import pytest
import senmon
import senmon.mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from rewinding import Rewinding


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """A server of MLflow with a database of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    line += ["--artifacts-destination", str(folder / "files"), "--host", "127.0.0.1", "--port", str(port)]
    line += ["--workers", "1"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        else:
            raise AssertionError((folder / "log").read_text())
        yield url
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


@pytest.fixture
def reader(world, monkeypatch):
    """MLflow's client, of Senmon's own server."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", world.token)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return MlflowClient(tracking_uri=world.url)


def histories(tracked, run_id):
    """Every point of a run: metric to (step, milliseconds, value)."""
    keys = tracked.get_run(run_id).data.metrics
    points = {key: tracked.get_metric_history(run_id, key) for key in keys}
    return {key: sorted((p.step, p.timestamp, p.value) for p in found) for key, found in points.items()}


def expected(metrics):
    rows = metrics.rows()
    found = {
        name: [(r["step"], r["at_ms"], r[name]) for r in rows if not math.isnan(r[name])] for name in metrics.names
    }
    return {name: points for name, points in found.items() if points}


# Written to MLflow.


def test_an_experiment_is_written_once_however_often(tracking, client, experiment):
    tracked = MlflowClient(tracking_uri=tracking)
    ids = senmon.mlflow.export("interop", tracking, client=client)
    found = tracked.get_experiment_by_name("interop")
    headline = client.report(experiment)["headline"]
    assert found.tags["senmon.headline"] == headline
    curves = client.metrics_of(experiment)
    assert set(ids) == {branch["name"] for branch in experiment["branches"]}
    before = {}
    for branch in experiment["branches"]:
        run = tracked.get_run(ids[branch["name"]])
        assert run.info.run_name == branch["name"] and run.info.status == "FINISHED"
        assert run.data.tags["senmon.branch_id"] == branch["id"] and run.data.tags["senmon.headline"] == headline
        assert run.data.params["role"] == branch["role"] and run.data.params["model.hidden_size"] == "32"
        before[run.info.run_id] = histories(tracked, run.info.run_id)
        metrics = curves.get(branch["name"])
        assert before[run.info.run_id] == (expected(metrics) if metrics else {})
        parent = next((b["name"] for b in experiment["branches"] if b["id"] == branch.get("parent_id")), None)
        assert run.data.tags.get("mlflow.parentRunId") == ids.get(parent)
    assert float(tracked.get_run(ids["dense"]).data.params["training.learning_rate"]) == 0.003
    assert senmon.mlflow.export(experiment, tracking, client=client) == ids
    assert {id: histories(tracked, id) for id in ids.values()} == before
    assert len(tracked.search_runs([found.experiment_id], run_view_type=ViewType.ALL)) == len(ids)


def test_what_was_written_in_part_goes_on(tracking, client, experiment):
    tracked = MlflowClient(tracking_uri=tracking)
    name = "interop in part"
    ids = senmon.mlflow.export(experiment, tracking, experiment_name=name, client=client)
    whole = histories(tracked, ids["dense"])
    # As if it had been stopped after the values, before the note of them.
    steps = client.metrics("interop/dense")
    tracked.set_tag(ids["dense"], "senmon.logged", f"{steps.steps[4]}:{steps.at_ms[4]}")
    assert senmon.mlflow.export(experiment, tracking, experiment_name=name, client=client) == ids
    assert histories(tracked, ids["dense"]) == whole


def test_a_run_whose_points_were_replaced_is_written_anew(tracking, world, client, experiment):
    tracked = MlflowClient(tracking_uri=tracking)
    name = "interop rewound"
    ids = senmon.mlflow.export(experiment, tracking, experiment_name=name, client=client)
    proxy = Rewinding(world.url)
    try:
        proxy.step = client.metrics("interop/dense").steps[10]
        with senmon.Client(proxy.url, world.token) as rewound:
            again = senmon.mlflow.export(experiment, tracking, experiment_name=name, client=rewound)
            metrics = rewound.metrics("interop/dense")
    finally:
        proxy.close()
    assert again["dense"] != ids["dense"] and tracked.get_run(ids["dense"]).info.lifecycle_stage == "deleted"
    assert histories(tracked, again["dense"]) == expected(metrics)


def test_an_experiment_that_was_deleted_there_is_refused(tracking, client, experiment):
    tracked = MlflowClient(tracking_uri=tracking)
    tracked.delete_experiment(tracked.create_experiment("gone"))
    with pytest.raises(senmon.ConfigurationError, match="'gone' was deleted"):
        senmon.mlflow.export(experiment, tracking, experiment_name="gone", client=client)


# Read from Senmon.


def test_its_client_reads_experiments_and_runs(reader, client, experiment):
    by_name = reader.get_experiment_by_name("interop")
    assert by_name.experiment_id == experiment["id"]
    assert by_name.tags["senmon.headline"] == client.report(experiment)["headline"]
    assert reader.get_experiment(experiment["id"]).name == "interop"
    assert reader.get_experiment_by_name("nowhere") is None
    assert experiment["id"] in [found.experiment_id for found in reader.search_experiments()]
    found = reader.search_experiments(filter_string="name ILIKE 'INTER%' AND tags.`senmon.state` = 'completed'")
    assert [one.experiment_id for one in found] == [experiment["id"]]
    assert reader.search_experiments(view_type=ViewType.DELETED_ONLY) == []
    runs = reader.search_runs([experiment["id"]])
    assert {run.info.run_id for run in runs} == {branch["id"] for branch in experiment["branches"]}
    for branch in experiment["branches"]:
        run = reader.get_run(branch["id"])
        assert run.info.run_name == branch["name"] and run.info.status == "FINISHED"
        assert run.info.start_time <= run.info.end_time and run.info.user_id == experiment["owner"]


def test_its_client_reads_every_point(reader, client, experiment):
    for branch, metrics in client.metrics_of(experiment).items():
        assert histories(reader, metrics.branch_id) == expected(metrics), branch
        points = {name: found[-1][2] for name, found in expected(metrics).items()}
        assert reader.get_run(metrics.branch_id).data.metrics == points
    page = reader._tracking_client.store.get_metric_history(metrics.branch_id, "train/loss", max_results=7)
    assert len(page) <= 7 and page.token
    assert reader.get_metric_history(metrics.branch_id, "nothing") == []


def test_both_ways_say_the_same(reader, tracking, client, experiment):
    tracked = MlflowClient(tracking_uri=tracking)
    ids = senmon.mlflow.export(experiment, tracking, client=client)
    for branch in experiment["branches"]:
        read, written = reader.get_run(branch["id"]).data, tracked.get_run(ids[branch["name"]]).data
        assert set(read.params) == set(written.params) and read.metrics == written.metrics
        for name, value in read.params.items():
            assert value == written.params[name] or float(value) == float(written.params[name]), name
        tags = {name for name in written.tags if name.startswith("senmon.")} - {senmon.mlflow.LOGGED}
        assert {name: read.tags.get(name) for name in tags} == {name: written.tags[name] for name in tags}


def test_a_search_finds_what_is_asked_for(reader, experiment):
    ask = [experiment["id"]]
    experts = reader.search_runs(
        ask, "params.role = 'expert' AND attributes.status = 'FINISHED'", order_by=["run_name ASC"]
    )
    assert [run.info.run_name for run in experts] == ["expert-0", "expert-1", "expert-2"]
    by_loss = reader.search_runs(ask, "metrics.`train/loss` > 0", order_by=["metrics.`train/loss` DESC"])
    losses = [run.data.metrics["train/loss"] for run in by_loss]
    assert len(losses) >= 5 and losses == sorted(losses, reverse=True)
    first = reader.search_runs(ask, max_results=2)
    rest = reader.search_runs(ask, max_results=500, page_token=first.token)
    assert len(first) == 2 and len(first) + len(rest) == len(experiment["branches"])
    with pytest.raises(MlflowException, match="expected one of run_id, run_name"):
        reader.search_runs(ask, "colour = 'red'")


def test_a_frame_of_runs(reader, world, experiment):
    mlflow.set_tracking_uri(world.url)
    frame = mlflow.search_runs(experiment_names=["interop"], filter_string="params.role = 'dense'")
    assert list(frame["run_id"]) == [b["id"] for b in experiment["branches"] if b["role"] == "dense"]
    assert frame["metrics.train/loss"].iloc[0] > 0


def test_nothing_is_changed_by_way_of_mlflow(reader, experiment):
    branch = experiment["branches"][0]["id"]
    for change in (
        lambda: reader.create_experiment("x"),
        lambda: reader.create_run(experiment["id"]),
        lambda: reader.log_metric(branch, "x", 1.0),
        lambda: reader.delete_run(branch),
    ):
        with pytest.raises(MlflowException, match="lets nothing be changed") as caught:
            change()
        assert caught.value.error_code == "ENDPOINT_NOT_FOUND"


def test_refusals_are_in_its_words(reader, world, monkeypatch):
    for ask in (reader.get_run, reader.get_experiment):
        for nobody in ("0", "01900000-0000-7000-8000-000000000000"):
            with pytest.raises(MlflowException) as caught:
                ask(nobody)
            assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "wrong")
    with pytest.raises(MlflowException) as caught:
        reader.search_experiments()
    assert caught.value.error_code == "UNAUTHENTICATED"
    worker = (world.folder / "server" / "worker-token").read_text().strip()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", worker)
    with pytest.raises(MlflowException, match="viewer, user or admin") as caught:
        reader.search_experiments()
    assert caught.value.error_code == "PERMISSION_DENIED"

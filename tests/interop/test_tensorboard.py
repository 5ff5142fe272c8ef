"""`senmon tensorboard`, read by TensorBoard itself: its EventAccumulator, and its server."""

import copy
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import numpy
import pytest
import world as worlds
from rewinding import Rewinding
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def command(world, *more, url=None):
    environment = os.environ | {"SENMON_SERVER": url or world.url, "SENMON_TOKEN": world.token}
    return [str(worlds.BUILT / "senmon"), "tensorboard", *map(str, more)], environment


def written(world, *more, url=None):
    line, environment = command(world, *more, "-o", "json", url=url)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return {run["branch"]: run for run in json.loads(done.stdout)}


def read(folder):
    """What TensorBoard reads: tag to (step, time, value)."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.wall_time, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected(metrics):
    """The same out of the API; TensorBoard keeps numbers of 32 bits."""
    rows = metrics.rows()
    tags = {
        name: [
            (row["step"], row["at_ms"] / 1000, float(numpy.float32(row[name])))
            for row in rows
            if row[name] == row[name]
        ]
        for name in metrics.names
    }
    return {name: points for name, points in tags.items() if points}


@pytest.fixture
def rewinding(world):
    proxy = Rewinding(world.url)
    yield proxy
    proxy.close()


def test_tensorboard_reads_every_point(world, client, experiment, tmp_path):
    runs = written(world, "interop", "--to", tmp_path)
    curves = client.metrics_of(experiment)
    assert set(runs) == set(curves) == {path.name for path in tmp_path.iterdir()}
    for branch, metrics in curves.items():
        assert read(tmp_path / branch) == expected(metrics)
        assert runs[branch]["points"] == runs[branch]["points_new"] == len(metrics)


def test_it_goes_on_where_it_stopped_in_the_middle_of_a_record_too(world, client, experiment, tmp_path):
    first = written(world, "interop", "--to", tmp_path)
    again = written(world, "interop", "--to", tmp_path)
    assert {run["points_new"] for run in again.values()} == {0}
    file = first["dense"]["file"]
    size = os.path.getsize(file)
    os.truncate(file, size * 2 // 3)
    went_on = written(world, "interop", "--to", tmp_path)
    assert 0 < went_on["dense"]["points_new"] < went_on["dense"]["points"] and os.path.getsize(file) == size
    assert read(tmp_path / "dense") == expected(client.metrics("interop/dense"))


def test_what_a_resume_took_back_is_taken_back(world, client, experiment, rewinding, tmp_path):
    written(world, "interop", "--to", tmp_path)
    plain = client.metrics("interop/dense")
    middle, last = len(plain) // 2, len(plain) - 3
    rewinding.step, rewinding.last = plain.steps[middle], plain.steps[last]
    changed = written(world, "interop", "--to", tmp_path, url=rewinding.url)
    assert changed["dense"]["points"] == last + 1 and changed["dense"]["points_new"] == last + 1 - middle > 1
    rewinding.last = None
    assert written(world, "interop", "--to", tmp_path, url=rewinding.url)["dense"]["points"] == len(plain)
    view = world.get(f"/api/v1/branches/{plain.branch_id}/metrics")
    rewinding.rewind(view)
    found = read(tmp_path / "dense")["train/loss"]
    values = [float(numpy.float32(value)) for value in view["series"]["train/loss"]["mean"]]
    assert found == list(zip(view["steps"], [at / 1000 for at in view["at_ms"]], values, strict=True))


def test_a_folder_of_something_else_is_refused(world, experiment, tmp_path):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "events.out.tfevents.1.other").write_bytes(b"")
    line, environment = command(world, "interop", "--to", tmp_path)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and "name another folder" in done.stderr, done.stderr


def test_points_are_there_while_it_trains_and_it_ends_with_the_experiment(world, client, experiment, tmp_path):
    spec = copy.deepcopy(worlds.EXPERIMENT) | {"name": "followed"}
    submitted = client.submit(spec)
    line, environment = command(world, "followed", "--to", tmp_path, "--follow")
    early = 0
    with subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True) as following:
        while following.poll() is None:
            running = client.experiment(submitted)["state"] == "running"
            points = read(tmp_path / "seed").get("train/loss", []) if (tmp_path / "seed").exists() else []
            early = max(early, len(points)) if running else early
            time.sleep(0.5)
        said = following.stdout.read()
    assert following.returncode == 0 and "tensorboard --logdir" in said
    assert client.experiment(submitted)["state"] == "completed" and early > 0
    for branch, metrics in client.metrics_of(submitted).items():
        assert read(tmp_path / branch) == expected(metrics)


def test_its_server_shows_the_curves(world, client, experiment, tmp_path):
    written(world, "interop", "--to", tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "tensorboard.main", "--logdir", str(tmp_path), "--host", "127.0.0.1"]
    line += ["--port", str(port), "--reload_interval", "1"]
    log = open(tmp_path / "log", "wb")  # noqa: SIM115
    served = subprocess.Popen(line, stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}/data"
        runs = []
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{base}/runs", timeout=5) as answer:
                    runs = json.load(answer)
            except OSError:
                runs = []
            if "expert-0" in runs and "dense" in runs:
                break
            time.sleep(0.2)
        metrics = client.metrics("interop/expert-0")
        query = urllib.parse.urlencode({"run": "expert-0", "tag": "train/loss"})
        with urllib.request.urlopen(f"{base}/plugin/scalars/scalars?{query}", timeout=10) as answer:
            shown = json.load(answer)
    finally:
        served.terminate()
        served.wait(20)
        log.close()
    points = expected(metrics)["train/loss"]
    assert [(step, value) for _, step, value in shown] == [(step, value) for step, _, value in points]
    assert all(abs(found[0] - point[1]) < 1e-3 for found, point in zip(shown, points, strict=True))

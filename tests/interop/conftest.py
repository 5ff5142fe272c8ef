"""One world and one finished experiment for all tests. The Python client submits it and watches it to its end."""

import tempfile
import threading
from dataclasses import dataclass

import pytest
import senmon
import world as worlds


@pytest.fixture(scope="session")
def world():
    running = worlds.World(tempfile.mkdtemp(prefix="senmon-interop-"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def client(world):
    with senmon.Client(world.url, world.token) as client:
        yield client


@dataclass
class Watched:
    """What was seen of the experiment while it ran."""

    plan: dict
    submitted: dict
    progress: list  # views
    done: dict
    points: list  # of the stream, as they came
    points_early: int  # of them, while the experiment still ran


@pytest.fixture(scope="session")
def watched(world, client):
    plan = client.plan(worlds.EXPERIMENT)
    submitted = client.submit(worlds.EXPERIMENT)
    points, progress, early = [], [], [0]

    def look(view):
        progress.append(view)
        if view["state"] == "running":
            early.append(len(points))

    def listen():
        for point in client.stream(submitted):
            points.append(point)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        done = client.wait(submitted, progress=look, timeout_s=300)
    except senmon.SenmonError as error:
        raise AssertionError(f"{error}\n{world.logs()}") from error
    listener.join(60)
    assert not listener.is_alive(), "the stream did not end with the experiment"
    return Watched(plan, submitted, progress, done, points, max(early))


@pytest.fixture(scope="session")
def experiment(watched):
    return watched.done

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
    points: list  # of the live stream, as they came


@pytest.fixture(scope="session")
def watched(world, client):
    plan = client.plan(worlds.EXPERIMENT)
    submitted = client.submit(worlds.EXPERIMENT)
    points, progress = [], []
    listener = threading.Thread(target=lambda: points.extend(client.stream(submitted)), daemon=True)
    listener.start()
    try:
        done = client.wait(submitted, progress=progress.append, timeout_s=300)
    except senmon.SenmonError as error:
        raise AssertionError(f"{error}\n{world.logs()}") from error
    listener.join(60)
    assert not listener.is_alive(), "the stream did not end with the experiment"
    return Watched(plan, submitted, progress, done, points)


@pytest.fixture(scope="session")
def experiment(watched):
    return watched.done

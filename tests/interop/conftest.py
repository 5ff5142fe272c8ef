"""One world and one finished experiment for all tests."""

import tempfile

import pytest
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
def experiment(world):
    return world.run(worlds.EXPERIMENT)

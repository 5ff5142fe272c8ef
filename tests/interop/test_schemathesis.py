"""The API is what its description says: schemathesis, all checks and links, an admin's token, a real Postgres.

Counts in target/schemathesis/report.json. EXAMPLES=n asks more of each operation; PHASES names some of its phases.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import world as worlds

HERE = Path(__file__).parent
ST = worlds.REPOSITORY / ".deps" / "schemathesis" / "bin" / "st"
REPORT = worlds.REPOSITORY / "target" / "schemathesis"


@pytest.fixture
def own_world():
    """A world that nobody else uses: everything in it is deleted, cancelled and revoked by chance."""
    running = worlds.World(tempfile.mkdtemp(prefix="senmon-schemathesis-"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


def test_the_api_is_what_its_description_says(own_world):
    own_world.run(worlds.EXPERIMENT)
    REPORT.mkdir(parents=True, exist_ok=True)
    command = [
        ST, "--config-file", HERE / "schemathesis.toml", "run", f"{own_world.url}/openapi.json",
        "--header", f"Authorization: Bearer {own_world.token}", "--checks", "all",
        "--phases", os.environ.get("PHASES", "examples,coverage,fuzzing,stateful"),
        "--max-examples", os.environ.get("EXAMPLES", "50"), "--seed", os.environ.get("SEED", "1"), "--no-color",
        "--report-json-path", REPORT / "report.json",
    ]  # fmt: skip
    # Beside its report: it keeps what failed in a folder of the place where it runs.
    done = subprocess.run(command, cwd=REPORT, capture_output=True, text=True, check=False)
    (REPORT / "output.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr + own_world.logs()
    report = json.loads((REPORT / "report.json").read_text())
    print(json.dumps({key: report[key] for key in report if key in ("summary", "statistics", "totals")}, indent=2))

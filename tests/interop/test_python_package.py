"""The Python client as a package: what it needs, what its wheel holds, what its types tell."""

import subprocess
import sys
import zipfile

import world as worlds

CLIENT = worlds.REPOSITORY / "server" / "python"

WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pandas", "transformers", "torch", "yaml", "numpy"}:
            raise ImportError(name)
sys.meta_path.insert(0, Without())
import senmon
client = senmon.Client("http://127.0.0.1:1", "t")
metrics = senmon.Metrics("b", [1], [2], [3], {"train/loss": {"mean": [1.5]}}, [], [])
assert metrics.rows() == [{"step": 1, "tokens": 2, "at_ms": 3, "train/loss": 1.5}]
for use in (metrics.frame, lambda: client.plan("configs/experiments/quick.yaml"), lambda: client.load_expert("a/b")):
    try:
        use()
    except senmon.MissingPackageError as error:
        print(str(error).split("pip install ")[1].split(";")[0])
"""


def test_httpx_alone_is_enough():
    command = [sys.executable, "-c", WITHOUT]
    environment = {"PYTHONPATH": str(CLIENT / "src"), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(command, cwd=worlds.REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["'senmon[pandas]'", "'senmon[yaml]'", "'senmon[transformers]'"]


def test_the_wheel_has_its_types_and_needs_httpx_alone(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=CLIENT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("senmon-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        about = packed.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert "senmon/py.typed" in names and "senmon/types/__init__.py" in names
    needed = [line for line in about.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert [line.split()[1].split("<")[0].split(">")[0] for line in needed] == ["httpx"]
    version = (worlds.REPOSITORY / "Cargo.toml").read_text().split('\nversion = "')[1].split('"')[0]
    assert f"Version: {version}\n" in about


MISTAKES = """
import senmon
client = senmon.Client()
client.experiment("x")["stat"]
client.branch("x")["loss"] + "nats"
client.submit(3)
steps: list[str] = client.metrics("x").steps
name: str = client.wait("x")["name"]
"""


def test_the_types_hold_and_tell_mistakes(tmp_path):
    check = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "--no-error-summary"]
    own = subprocess.run(check, cwd=CLIENT, capture_output=True, text=True, check=False)
    assert own.returncode == 0, own.stdout + own.stderr
    (tmp_path / "use.py").write_text(MISTAKES)
    config = ["--config-file", str(CLIENT / "pyproject.toml"), str(tmp_path / "use.py")]
    found = subprocess.run([*check, *config], cwd=CLIENT, capture_output=True, text=True, check=False).stdout
    lines = [int(line.split(":")[1]) for line in found.splitlines() if ": error:" in line]
    assert sorted(set(lines)) == [4, 5, 6, 7], found


def test_no_file_is_too_long_and_each_says_what_it_is_for():
    for path in sorted((CLIENT / "src").rglob("*.py")):
        lines = path.read_text().splitlines()
        assert len(lines) <= 410 and lines[0].startswith('"""'), path

"""The Python client without a server: what it sends, and what it does with odd answers."""

import hashlib
import json
import time

import httpx
import pytest
import senmon
import world as worlds
from senmon import download, files, reach, stream, tracker, transport, waiting
from senmon.metrics import Point

EXPERIMENT_ID, BRANCH_ID = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"
LOOPBACK = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_surroundings(monkeypatch, tmp_path):
    for name in ("SENMON_SERVER", "SENMON_TOKEN", "SENMON_CA_FILE", "SENMON_INSECURE_HTTP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def client_of(answer):
    """A client whose server is a function from a request to an answer."""
    return senmon.Client(LOOPBACK, "token", transport=httpx.MockTransport(answer))


def problem(status, **more):
    body = {"type": "/problems/x", "code": "x", "title": "t", "status": status, "detail": "d"} | more
    return httpx.Response(status, json=body)


# Where it is sent, and with which token.


def test_the_environment_is_read_as_the_command_reads_it(monkeypatch, tmp_path):
    assert reach.find(None, None, None, None) == reach.Reach("http://127.0.0.1:8080", None)
    kept = tmp_path / "config" / "senmon" / "token"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept\n")
    assert reach.find(None, None, None, None).token == "kept"
    monkeypatch.setenv("SENMON_TOKEN", " of-the-environment ")
    monkeypatch.setenv("SENMON_SERVER", "https://senmon.example/")
    monkeypatch.setenv("SENMON_CA_FILE", "/ca.pem")
    found = reach.find(None, None, None, None)
    assert found == reach.Reach("https://senmon.example", "of-the-environment", "/ca.pem")
    assert "of-the-environment" not in repr(found)
    assert reach.find(LOOPBACK, "given", None, None) == reach.Reach(LOOPBACK, "given", "/ca.pem")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "127.8.9.1"])
def test_plain_http_is_for_this_machine(host):
    assert reach.find(f"http://{host}:8080", "token", None, None).token == "token"


@pytest.mark.parametrize("host", ["a.example", "10.0.0.1", "0.0.0.0", "[::]", "localhost.example", "[2001:db8::1]"])
def test_no_token_goes_over_plain_http_to_another_machine(host, monkeypatch):
    with pytest.raises(senmon.ConfigurationError, match="anybody on the way can read the token"):
        senmon.Client(f"http://{host}", "token")
    assert reach.find(f"http://{host}", None, None, None).token is None
    assert reach.find(f"http://{host}", "token", None, True).token == "token"
    monkeypatch.setenv("SENMON_INSECURE_HTTP", "false")
    with pytest.raises(senmon.ConfigurationError):
        reach.find(f"http://{host}", "token", None, None)
    monkeypatch.setenv("SENMON_INSECURE_HTTP", "1")
    assert reach.find(f"http://{host}", "token", None, None).token == "token"


@pytest.mark.parametrize("url", ["", "127.0.0.1:8080", "ftp://a", "http://", "https://u:p@a", "https://a?x", "http://a:b"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(senmon.ConfigurationError, match="^url: found ") as caught:
        senmon.Client(url)
    assert "u:p" not in str(caught.value)


def test_a_token_is_sent_to_its_server_alone(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example")
    seen = []

    def answer(request):
        seen.append(request)
        return httpx.Response(307, headers={"location": "https://elsewhere.example/"})

    with client_of(answer) as client, pytest.raises(senmon.UnexpectedAnswerError, match="answers 307: is it a Senmon server"):
        client.corpora()
    assert [r.url.host for r in seen] == ["127.0.0.1"] and seen[0].headers["authorization"] == "Bearer token"
    with pytest.raises(senmon.ConfigurationError, match="token: found characters"):
        senmon.Client(LOOPBACK, "a\nb")


def test_a_file_of_authorities_is_checked(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(senmon.ConfigurationError, match="ca_file: .*expected a PEM file"):
        senmon.Client("https://senmon.example", ca_file=file)


# Patience, and what odd answers become.


def test_it_waits_as_long_as_the_server_asks(monkeypatch):
    waited, answers = [], [("2", 429), ("soon", 429), (None, 200)]
    monkeypatch.setattr(time, "sleep", waited.append)

    def answer(request):
        after, status = answers.pop(0)
        headers = {"retry-after": after} if after else {}
        return httpx.Response(status, headers=headers, json={"items": []})

    assert client_of(answer).corpora() == [] and waited == [2, 1]


def test_its_patience_has_an_end(monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    refusal = problem(429, detail="too much is asked at once")
    refusal.headers["retry-after"] = "9999"
    with pytest.raises(senmon.TooManyRequestsError, match="too much is asked"):
        client_of(lambda request: refusal).corpora()
    assert waited == [60, 60]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, "Forbidden"), (409, "Conflict"), (413, "InvalidInput"), (500, "Server"), (503, "Server"), (507, "Server")],
)
def test_a_problem_becomes_an_exception(status, kind):
    faults = [{"path": "a", "message": "m"}, {"path": "a", "message": "n"}, {"path": "b.c", "message": "o"}]
    with pytest.raises(getattr(senmon, f"{kind}Error")) as caught:
        client_of(lambda request: problem(status, faults=faults, request_id="r-1")).cancel(EXPERIMENT_ID)
    assert caught.value.faults_by_path == {"a": "m; n", "b.c": "o"}
    assert str(caught.value) == "d\n  a: m\n  a: n\n  b.c: o\n  request r-1"


def test_what_is_no_senmon_server_is_said():
    with pytest.raises(senmon.UnexpectedAnswerError, match="answers 502"):
        client_of(lambda request: httpx.Response(502, text="<html>")).corpora()
    with pytest.raises(senmon.UnexpectedAnswerError, match="is it|no JSON"):
        client_of(lambda request: httpx.Response(200, text="<html>")).corpora()
    with pytest.raises(senmon.UnreachableError, match="no server answers at"):
        senmon.Client(LOOPBACK).corpora()


def test_a_mutation_carries_one_key_however_often_it_is_sent(monkeypatch):
    monkeypatch.setattr(transport, "PAUSES_SECONDS", (0.0, 0.0))
    keys = []

    def answer(request):
        keys.append(request.headers.get("idempotency-key"))
        if len(keys) < 3:
            raise httpx.ReadError("reset")
        return httpx.Response(202, json={"id": EXPERIMENT_ID})

    client_of(answer).submit({"name": "x"})
    assert len(keys) == 3 and len(set(keys)) == 1 and keys[0]
    keys[:] = [None] * 5
    client_of(answer).submit({"name": "x"}, idempotency_key="mine")
    client_of(answer).plan({"name": "x"})
    assert keys[5:] == ["mine", None]


def test_ids_and_names_stay_within_their_part_of_the_address():
    paths = []

    def answer(request):
        paths.append(request.url.raw_path.decode())
        return httpx.Response(200, json={"id": "x", "state": "ready"})

    client = client_of(answer)
    client.corpus("a/b?c ü")
    assert paths == ["/api/v1/corpora/a%2Fb%3Fc%20%C3%BC"]
    for bad in ("..", ".", "", None, {}):
        with pytest.raises(senmon.ConfigurationError, match="found .*expected an id"):
            client.corpus(bad)
    with pytest.raises(senmon.ConfigurationError, match="checkpoint: found 'x', expected an id"):
        client.checkpoint("x")


def test_rows_that_the_server_cannot_read_are_told():
    page = {"items": [], "broken": [{"id": "1", "problem": "corpus 1 cannot be read"}]}
    with pytest.warns(UserWarning, match="corpus 1 cannot be read"):
        client_of(lambda request: httpx.Response(200, json=page)).corpora()


def test_a_wait_outlives_a_restart_and_ends_with_the_reason(monkeypatch):
    monkeypatch.setattr(transport, "PAUSES_SECONDS", ())
    branch = {"name": "expert-1", "state": "failed", "why": "the loss is not finite"}
    failed = {"id": "x", "name": "e", "state": "failed", "problem": "a branch failed", "branches": [branch], "stages": []}
    answers = [failed | {"state": "running"}, httpx.ConnectError("refused"), problem(503), failed]

    def answer(request):
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, httpx.Response) else httpx.Response(200, json=found)

    told = []
    with pytest.raises(senmon.ExperimentFailedError) as caught:
        client_of(answer).wait(EXPERIMENT_ID, progress=told.append, poll_s=0.001)
    assert str(caught.value) == "experiment e failed: a branch failed\n  expert-1: the loss is not finite"
    assert [view["state"] for view in told] == ["running", "failed"] and answers == []


def test_progress_is_printed_when_it_changes(capsys):
    stage = {"stage": "branches", "state": "running", "done": 52, "total": 100, "unit": "tokens", "seconds_left": 9.4}
    show = waiting.PrintProgress()
    for _ in range(3):
        show({"stages": [stage, stage | {"stage": "merge", "state": "waiting"}]})
    show({"stages": [stage | {"state": "done", "done": 100}]})
    expected = "branches   52 %  52 of 100 tokens, 9 s left\nbranches  100 %  100 of 100 tokens, done\n"
    assert capsys.readouterr().out == expected


# Files.


def test_yaml_is_read_as_the_server_reads_it(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: 1e-6\nb: 6M\nc: on\nd: 12:30\ne: { 0: 1, 1: .5 }\nf: ~\ng: [true, no, -3, 0x10, 010]\nh: 3.2M\n")
    expected = {"a": 1e-6, "b": "6M", "c": "on", "d": "12:30", "e": {0: 1, 1: 0.5}, "f": None, "h": "3.2M"}
    assert files.as_dict(file) == expected | {"g": [True, "no", -3, 16, "010"]}
    assert files.as_body(file) == (file.read_bytes(), "application/yaml")
    for shipped in (worlds.REPOSITORY / "configs" / "experiments").glob("*.yaml"):
        assert files.as_dict(shipped)["name"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.yaml", "a: 1\na: 2\n", "the key 'a' twice"),
        ("x.yaml", "a: [", "x.yaml: while parsing"),
        ("x.yaml", "- a\n", "found list, expected a mapping"),
        ("x.json", "{", "x.json: Expecting"),
        ("x.toml", "", "expected a dict or a file that ends in .yaml, .yml, .json"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(senmon.ConfigurationError, match=message):
        files.as_dict(tmp_path / name)


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(senmon.ConfigurationError, match="JSON cannot hold"):
        client_of(None).submit({"training": {"learning_rate": float("nan")}})


def test_a_manifest_leads_nowhere_else():
    for name in ("../x", "/x", "a/b", "..", "", "a\\b"):
        with pytest.raises(senmon.DownloadError, match="expected one without folders"):
            download.chosen({"files": {name: {"bytes": 0, "sha256": ""}}}, "all")


@pytest.mark.parametrize(
    ("body", "there", "status", "message"),
    [
        (b"longer than it", b"", 200, "model: found at least 14 bytes, expected 5"),
        (b"ger than it", b"lon", 206, "model: found at least 14 bytes, expected 5"),
        (b"", b"lon", 416, "model: found at most 3 bytes, expected 5"),
        (b"short", b"", 200, "model: found SHA-256 .*, expected 0"),
    ],
)
def test_a_file_of_another_size_is_refused(tmp_path, body, there, status, message):
    manifest = json.dumps({"files": {"model": {"bytes": 5, "sha256": "0" * 64}}}).encode()
    view = {"id": EXPERIMENT_ID, "manifest_sha256": hashlib.sha256(manifest).hexdigest()}
    (tmp_path / "model.part").write_bytes(there)

    def answer(request):
        if request.url.path.endswith("manifest.json"):
            return httpx.Response(200, content=manifest)
        if request.url.path.endswith("model"):
            return httpx.Response(status, content=body, headers={"content-range": "bytes 3-13/14"})
        return httpx.Response(200, json=view)

    with pytest.raises(senmon.ChecksumError, match=message):
        client_of(answer).download(EXPERIMENT_ID, tmp_path)
    assert list(tmp_path.iterdir()) == []
    view["manifest_sha256"] = "1" * 64
    with pytest.raises(senmon.ChecksumError, match="manifest.json: found SHA-256"):
        client_of(answer).download(EXPERIMENT_ID, tmp_path)


# Points.


def points(steps, at_ms=0, values=None):
    return [Point(EXPERIMENT_ID, BRANCH_ID, "seed", step, step * 10, at_ms + step, values or {}) for step in steps]


def taken(tracked, batch):
    return [point.step for point in tracked.take(batch)]


def test_each_point_is_new_once():
    tracked = tracker.Tracker()
    assert taken(tracked, points([1, 2, 3])) == [1, 2, 3]
    assert taken(tracked, points([2, 3, 4])) == [4]
    assert tracked.missing_before(5) is None and tracked.missing_before(8) == (5, 7)


def test_a_resumed_attempt_takes_steps_back():
    tracked = tracker.Tracker()
    tracked.take(points([1, 2, 3, 4]))
    again = points([3, 4, 5], at_ms=100)
    assert taken(tracked, again) == [3, 4, 5] and taken(tracked, again) == []
    assert [p.step for p in senmon.latest([*points([1, 2, 3, 4]), *points([3], at_ms=100)])[BRANCH_ID]] == [1, 2, 3]


def test_points_every_ten_steps_are_no_gaps():
    tracked = tracker.Tracker()
    assert tracked.missing_before(10) == (1, 9)
    tracked.take(points([10, 20]))
    assert tracked.missing_before(30) is None and tracked.missing_before(50) == (21, 49)


def test_events_are_cut_at_line_feeds_alone():
    text = 'event: event\ndata: {"text": "a\u2028b\x85c"}\n\n: alive\n\ndata: 1\r\ndata: 2\r\n\r\nevent: cut\ndata: 3'
    whole = text.encode()
    pieces = [whole[i : i + 3] for i in range(0, len(whole), 3)]
    expected = [("event", '{"text": "a\u2028b\x85c"}'), ("", ""), ("message", "1\n2")]
    assert list(stream.server_sent(pieces)) == expected == list(stream.server_sent([whole]))


class Branch:
    """A server with one branch that trains; `lines` is what its stream says, connection by connection."""

    def __init__(self, connections):
        self.connections, self.steps, self.state, self.asked = connections, {}, "running", []

    def report(self, steps, at_ms=0):
        self.steps = {s: v for s, v in self.steps.items() if s < steps[0]} | {s: at_ms + s for s in steps}

    def view(self, first=0, last=10**9):
        steps = [s for s in sorted(self.steps) if first <= s <= last]
        curve = {"mean": [float(s) for s in steps], "min": None, "max": None}
        axes = {"steps": steps, "tokens": [s * 10 for s in steps], "at_ms": [self.steps[s] for s in steps]}
        return {"branch_id": BRANCH_ID, **axes, "series": {"train/loss": curve}, "superseded": [], "events": []}

    def __call__(self, request):
        path, query = request.url.path.removeprefix("/api/v1"), request.url.params
        self.asked.append(path)
        if path == "/stream":
            return httpx.Response(200, content=self.connections.pop(0)())
        if path.startswith("/branches/"):
            return httpx.Response(200, json=self.view(int(query["step_from"]), int(query["step_to"])))
        if path.endswith("/metrics"):
            return httpx.Response(200, json=[self.view()] if self.steps else [])
        branch = {"id": BRANCH_ID, "name": "seed", "state": self.state}
        return httpx.Response(200, json={"id": EXPERIMENT_ID, "state": self.state, "branches": [branch]})

    def live(self, steps):
        view = self.view(steps[0], steps[-1])
        batch = {key: view[key] for key in ("branch_id", "steps", "tokens", "at_ms")} | {"experiment_id": EXPERIMENT_ID}
        batch |= {"kind": "metrics", "series": {"train/loss": [None if s == 4 else float(s) for s in view["steps"]]}}
        return f"event: metrics\ndata: {json.dumps(batch)}\n\n".encode()


def test_a_stream_is_filled_up_where_it_has_holes(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(stream, "CHECK_SECONDS", 0)

    def first():
        server.report([2, 3])
        yield server.live([2, 3])
        server.report([4, 5, 6])
        yield server.live([6])  # 4 and 5 were left out
        server.report([7, 8])
        yield b"event: resync\ndata: {}\n\n"
        server.report([9])  # and then the server goes away

    def second():
        server.report([8, 9, 10], at_ms=100)  # another attempt, from step 7 on
        yield server.live([10])  # the 8 and 9 of that attempt were left out
        server.report([11], at_ms=100)
        server.state = "completed"
        yield b"event: experiment\ndata: {}\n\n"
        raise AssertionError("it is read beyond its end")

    server = Branch([first, second])
    server.report([1])
    found = list(client_of(server).stream(EXPERIMENT_ID))
    assert [p.step for p in found] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 8, 9, 10, 11]
    assert [(p.step, p.at_ms) for p in senmon.latest(found)[BRANCH_ID]] == sorted(server.steps.items())
    frame = senmon.frame(found)
    assert list(frame.loc["seed"].index) == list(range(1, 12)) and frame["train/loss"].iloc[-1] == 11
    assert server.connections == []


def test_a_stream_ends_when_its_time_is_up():
    def quiet():
        while True:
            yield b": alive\n\n"

    start = time.monotonic()
    assert list(client_of(Branch([quiet])).stream(EXPERIMENT_ID, seconds=0.2)) == []
    assert time.monotonic() - start < 5

"""Spans of the server as a collector of OpenTelemetry gets them, read with its own schema."""

import http.server
import tempfile
import threading
import time
import urllib.error
import urllib.request

import pytest
import world as worlds
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans over HTTP, or refuses them with a status."""

    def __init__(self):
        self.spans, self.resources, self.status, self.paths = [], [], 200, set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.paths.add((self.path, self.headers["content-type"]))
                if outer.status == 200:
                    outer.take(body)
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, body):
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            self.resources.append(attributes(resource.resource))
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


def attributes(thing):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in thing.attributes}


@pytest.fixture(scope="module")
def traced():
    """A server with a collector beside it; no workers."""
    collector = Collector()
    running = worlds.World(tempfile.mkdtemp(prefix="senmon-traces-"))
    try:
        config = {"listen": running.url.removeprefix("http://"), "data_dir": str(running.folder / "server")}
        running.spawn("senmon-server", config | {"otlp_endpoint": collector.url, "corpus_roots": []})
        running.until("the server is ready", 60, lambda: running.answers("/readyz"))
        running.token = (running.folder / "server" / "admin-token").read_text().strip()
        yield running, collector
    finally:
        running.stop()


def found(collector, name, wanted=lambda span: True):
    for _ in range(200):
        for span in list(collector.spans):
            if span.name == name and wanted(span):
                return span
        time.sleep(0.1)
    raise AssertionError(f"no span {name!r} among {sorted({span.name for span in collector.spans})}")


def test_a_request_is_a_span_of_its_callers_trace(traced):
    running, collector = traced
    headers = {"authorization": f"Bearer {running.token}", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    url = f"{running.url}/api/v1/corpora/nowhere?limit=secret"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, headers=headers))
    span = found(collector, "GET /api/v1/corpora/{id}")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    known = attributes(span)
    assert known["http.response.status_code"] >= 400 and known["url.path"] == "/api/v1/corpora/nowhere"
    assert known["http.route"] == "/api/v1/corpora/{id}" and span.kind == 2
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < 10e9
    assert "secret" not in str(span) and running.token not in str(span)
    assert collector.resources[0]["service.name"] == "senmon-server"
    assert collector.paths == {("/v1/traces", "application/x-protobuf")}


def test_a_pass_of_a_loop_is_a_trace(traced):
    _, collector = traced
    span = found(collector, "loop schedule")
    assert span.parent_span_id == b"" and len(span.trace_id) == 16 and span.kind == 1


def test_a_collector_that_is_away_holds_nothing_up_and_gets_the_next_spans(traced):
    running, collector = traced
    collector.status = 503
    time.sleep(12)
    assert running.answers("/readyz")
    collector.spans.clear()
    collector.status = 200
    found(collector, "loop schedule")
    log = (running.folder / "senmon-server.log").read_text()
    assert log.count("does not take spans") == 1
    running.until("it is said", 20, lambda: "takes spans again" in (running.folder / "senmon-server.log").read_text())

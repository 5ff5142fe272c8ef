"""A proxy that answers as if attempts had been resumed from a checkpoint: behind a step all points are others."""

import http.server
import json
import threading
import urllib.request


class Rewinding:
    """Forwards GETs to a server. From `step` on points have other times and values; those behind `last` are to come."""

    def __init__(self, url):
        self.step, self.last = None, None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                headers = {"authorization": self.headers.get("authorization", "")}
                with urllib.request.urlopen(urllib.request.Request(url + self.path, headers=headers)) as answer:
                    body = json.load(answer)
                if "/metrics" in self.path:
                    for view in body if isinstance(body, list) else [body]:
                        outer.rewind(view)
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def rewind(self, view):
        """Changes a view of curves."""
        if self.step is None:
            return
        kept = [i for i, step in enumerate(view["steps"]) if self.last is None or step <= self.last]
        new = [view["steps"][i] >= self.step for i in kept]
        for name in ("steps", "tokens"):
            view[name] = [view[name][i] for i in kept]
        view["at_ms"] = [view["at_ms"][i] + (500 if other else 0) for i, other in zip(kept, new, strict=True)]
        for curve in view["series"].values():
            values = [curve["mean"][i] for i in kept]
            pairs = zip(values, new, strict=True)
            curve["mean"] = [value * 2 if other and value is not None else value for value, other in pairs]

    def close(self):
        self.server.shutdown()
        self.server.server_close()

"""Points as they come: the server's event stream, and the curves themselves wherever it is no proof.

The stream is hints: a slow reader is told to ask again, busy branches are thinned out, a server restarts. So curves are
read whole when a connection is made and when the end is reached, and in part where a step is missing between.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from senmon import errors, metrics, operations
from senmon.metrics import Point
from senmon.tracker import Tracker
from senmon.transport import Transport
from senmon.types import MetricsView, StreamMetrics

POINTS_MAX = 10_000
"""Points of a curve that are asked for at once: the most that the server gives."""
SILENCE_SECONDS = 45
"""The server says something every 15 s; after three of those the connection is taken for dead."""
CHECK_SECONDS = 1.0
"""Between two looks at whether the end is reached."""
AWAY_SECONDS = 300
"""A server that restarts is back by then; one that is not is gone."""
OVER = ("completed", "failed", "cancelled")


class Follower:
    """The points of an experiment, or of one branch of it, each once."""

    def __init__(
        self,
        transport: Transport,
        experiment_id: str,
        branch_id: str | None,
        keys: list[str] | None,
        seconds: float | None,
    ) -> None:
        self._transport = transport
        self._experiment_id = experiment_id
        self._branch_id = branch_id
        self._keys = keys
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self._trackers: dict[str, Tracker] = {}
        self._names: dict[str, str] = {}
        self._over = False
        self._looked_at = -math.inf

    def points(self, *, past: bool) -> Iterator[Point]:
        """Yields points until all is over or the time is up. Without `past`, not those that are there already."""
        away_since: float | None = None
        while True:
            silence = min(SILENCE_SECONDS, self._deadline - time.monotonic())
            if silence <= 0:
                return
            try:
                query = {"experiment_id": self._experiment_id}
                with self._transport.opened(operations.STREAM, query=query, silence_seconds=silence) as answer:
                    self._look()
                    # After the stream was opened, so that nothing falls between.
                    for point in self._all():
                        if past:
                            yield point
                    past, away_since = True, None
                    if not self._over:
                        yield from self._live(answer)
                if self._over:
                    yield from self._all()
                    return
            except (errors.UnreachableError, errors.ServerError) as error:
                now = time.monotonic()
                away_since = now if away_since is None else away_since
                if now >= self._deadline:
                    return
                if now - away_since > AWAY_SECONDS:
                    raise errors.UnreachableError(f"{error}; and so for {AWAY_SECONDS} s") from error
            time.sleep(min(1.0, max(0.0, self._deadline - time.monotonic())))

    def _live(self, answer: httpx.Response) -> Iterator[Point]:
        """Points from an open stream, until it ends, all is over, or the time is up."""
        for event, data in server_sent(answer.iter_bytes()):
            if event == "metrics":
                yield from self._batch(json.loads(data))
            elif event == "resync":
                yield from self._all()
            # A hint that something changed, or a sign of life.
            if event != "metrics" and time.monotonic() - self._looked_at >= CHECK_SECONDS:
                self._look()
            if self._over or time.monotonic() >= self._deadline:
                return

    def _batch(self, batch: StreamMetrics) -> Iterator[Point]:
        id = batch["branch_id"]
        if not batch["steps"] or self._branch_id not in (None, id):
            return
        if id not in self._names:
            self._look()
        wanted = (name for name in batch["series"] if self._keys is None or name in self._keys)
        series = {name: metrics.floats(batch["series"][name]) for name in wanted}
        missing = self._tracker(id).missing_before(batch["steps"][0])
        if missing is not None:
            yield from self._between(id, *missing)
        came = [
            Point(
                batch["experiment_id"],
                id,
                self._names.get(id, id),
                step,
                batch["tokens"][i],
                batch["at_ms"][i],
                {name: values[i] for name, values in series.items()},
            )
            for i, step in enumerate(batch["steps"])
        ]
        yield from self._tracker(id).take(came)

    def _look(self) -> None:
        """Looks at names and states."""
        self._looked_at = time.monotonic()
        view = self._transport.call(operations.EXPERIMENT, id=self._experiment_id)
        self._names = {branch["id"]: branch["name"] for branch in view["branches"]}
        states = {branch["id"]: branch["state"] for branch in view["branches"]}
        is_branch_over = self._branch_id is not None and states.get(self._branch_id) in OVER
        self._over = view["state"] in OVER or is_branch_over

    def _all(self) -> Iterator[Point]:
        """What is new in the curves as they are now. What was taken is yielded before the next request can fail."""
        query: dict[str, object] = {"keys": self._keys, "points_max": POINTS_MAX}
        if self._branch_id is not None:
            views = [self._transport.call(operations.BRANCH_METRICS, query=query, id=self._branch_id)]
        else:
            views = self._transport.call(operations.EXPERIMENT_METRICS, query=query, id=self._experiment_id)
        for view in views:
            id = view["branch_id"]
            if is_folded(view):
                yield from self._between(id, 0, view["steps"][-1])
            else:
                yield from self._taken(view)

    def _between(self, id: str, first: int, last: int) -> Iterator[Point]:
        """What is new from one step to another, in pieces in which each step is a point."""
        for start in range(first, last + 1, POINTS_MAX):
            end = min(start + POINTS_MAX - 1, last)
            query = {"keys": self._keys, "points_max": POINTS_MAX, "step_from": start, "step_to": end}
            yield from self._taken(self._transport.call(operations.BRANCH_METRICS, query=query, id=id))

    def _taken(self, view: MetricsView) -> list[Point]:
        id = view["branch_id"]
        return self._tracker(id).take(metrics.points(self._experiment_id, self._names.get(id, id), view))

    def _tracker(self, id: str) -> Tracker:
        return self._trackers.setdefault(id, Tracker())


def is_folded(view: MetricsView) -> bool:
    """Whether a bucket of the curves is more than one step."""
    return any(curve.get("min") is not None for curve in view["series"].values())


def server_sent(pieces: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    """Server-sent events as (event, data); a comment, which is a sign of life, as ("", "").

    Lines are split at line feeds alone: the JSON of a sentence may hold other separators.
    """
    event, rest = "message", b""
    data: list[str] = []
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            name, _, value = line.partition(b":")
            text = value.removeprefix(b" ").decode("utf-8", "replace")
            if not line:
                if data:
                    yield event, "\n".join(data)
                event, data = "message", []
            elif not name:
                yield "", ""
            elif name == b"event":
                event = text
            elif name == b"data":
                data.append(text)

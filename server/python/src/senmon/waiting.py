"""Waiting for an end, and progress in words."""

import sys
import time
from collections.abc import Callable
from typing import TextIO, TypeVar

from senmon import errors
from senmon.types import CorpusView, ExperimentView, StageProgress

AWAY_SECONDS = 300
"""A server that restarts is back by then; one that is not is gone."""
SAID_EVERY_SECONDS = 15
"""Between two lines about a stage that goes on."""

View = TypeVar("View")


def until(
    what: str,
    ask: Callable[[], View],
    is_over: Callable[[View], bool],
    waits_for: Callable[[View], str | None],
    progress: Callable[[View], object] | None,
    timeout_s: float | None,
    poll_s: float,
) -> View:
    """Asks again and again until it is over; `progress` gets each view that differs from the one before."""
    if poll_s <= 0:
        raise errors.ConfigurationError(f"poll_s: found {poll_s}, expected more than 0")
    start = time.monotonic()
    away_since: float | None = None
    last: View | None = None
    while True:
        try:
            view = ask()
            away_since = None
            if progress is not None and view != last:
                progress(view)
            last = view
            if is_over(view):
                return view
        # A server that restarts, or whose database does.
        except (errors.UnreachableError, errors.ServerError) as error:
            away_since = time.monotonic() if away_since is None else away_since
            if time.monotonic() - away_since > AWAY_SECONDS:
                raise errors.UnreachableError(f"{error}; and so for {AWAY_SECONDS} s") from error
        spent = time.monotonic() - start
        if timeout_s is not None and spent >= timeout_s:
            reason = waits_for(last) if last is not None else None
            why = f"; it waits for this: {reason}" if reason else ""
            raise errors.WaitTimeoutError(f"{what} is not over after {timeout_s} s{why}")
        time.sleep(poll_s if timeout_s is None else min(poll_s, timeout_s - spent))


def experiment_over(view: ExperimentView) -> bool:
    """Whether an experiment is over. A paused one is not."""
    return view["state"] in ("completed", "failed", "cancelled")


def corpus_over(view: CorpusView) -> bool:
    """Whether a corpus is read, or refused."""
    return view["state"] != "scanning"


def corpus_waits_for(view: CorpusView) -> str | None:
    """What a corpus waits for, in a sentence."""
    scan = view.get("scan")
    return (scan.get("waits_for") if scan else None) or view.get("problem")


class PrintProgress:
    """`progress` for `Client.wait`: a line when a stage begins or ends, and every 15 s of one that goes on."""

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._said: dict[str, tuple[str, float]] = {}

    def __call__(self, view: ExperimentView) -> None:
        """Prints what is new."""
        for stage in view["stages"]:
            state, at = self._said.get(stage["stage"], ("waiting", 0.0))
            is_fresh = time.monotonic() - at < SAID_EVERY_SECONDS
            is_said = state == stage["state"] and (state != "running" or is_fresh)
            if is_said or stage["state"] in ("waiting", "skipped"):
                continue
            self._said[stage["stage"]] = (stage["state"], time.monotonic())
            print(stage_line(stage), file=self._file or sys.stdout, flush=True)


def stage_line(stage: StageProgress) -> str:
    """`branches   52 %  3400000 of 6500000 tokens, running`."""
    total, done = stage["total"], stage["done"]
    percent = 100 if stage["state"] == "done" else min(100, 100 * done // total) if total else 0
    left = stage.get("seconds_left")
    end = f"{left:.0f} s left" if stage["state"] == "running" and left is not None else stage["state"]
    counts = f"  {done} of {total} {stage['unit']}" if total else ""
    return f"{stage['stage']:<9} {percent:>3} %{counts}, {end}"

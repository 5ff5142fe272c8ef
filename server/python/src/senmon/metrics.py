"""Curves as columns, as rows, and as a pandas DataFrame.

A loss is in nats per token. A value that is not finite is `nan`, as is one that was not measured at a step.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from senmon.errors import MissingPackageError
from senmon.types import Curve, EventView, MetricsView, SupersededTail

if TYPE_CHECKING:
    import pandas

AXES = ("step", "tokens", "at_ms")


@dataclass(frozen=True)
class Point:
    """What a branch reported at one step."""

    experiment_id: str
    branch_id: str
    branch: str  # Name of the branch.
    step: int  # Optimiser steps of the branch so far.
    tokens: int  # Tokens of the branch so far.
    at_ms: int  # Milliseconds since the Unix epoch.
    values: dict[str, float] = field(default_factory=dict)  # By metric name; `nan` where not finite.


@dataclass(frozen=True)
class Metrics:
    """Curves of one branch, `n` buckets each. A bucket is one step until there are more steps than points asked for."""

    branch_id: str
    steps: list[int]  # Last step of each bucket.
    tokens: list[int]  # Tokens of the branch at that step.
    at_ms: list[int]  # Milliseconds since the Unix epoch at that step.
    series: dict[str, Curve]  # By metric name: `mean`, `min` and `max` of each bucket.
    superseded: list[SupersededTail]  # Points that a later attempt took the place of.
    events: list[EventView]  # What happened to the branch.

    @classmethod
    def of(cls, view: MetricsView) -> "Metrics":
        """From what the API gives."""
        return cls(**{name: view[name] for name in cls.__dataclass_fields__})  # type: ignore[literal-required]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def names(self) -> list[str]:
        """Metric names, `train/loss` first."""
        return sorted(self.series, key=lambda name: (name != "train/loss", name))

    def columns(self, *, bounds: bool = False) -> dict[str, list[Any]]:
        """`{"step": [n], "tokens": [n], "at_ms": [n], "train/loss": [n], ...}`: of a metric the mean of each bucket.

        With `bounds`, `train/loss_min` and `train/loss_max` stand beside it: the mean itself where each bucket is one
        point.
        """
        columns: dict[str, list[Any]] = {"step": self.steps, "tokens": self.tokens, "at_ms": self.at_ms}
        for name in self.names:
            curve = self.series[name]
            columns[name] = floats(curve["mean"])
            if bounds:
                columns[f"{name}_min"] = floats(curve.get("min") or curve["mean"])
                columns[f"{name}_max"] = floats(curve.get("max") or curve["mean"])
        return columns

    def rows(self, *, bounds: bool = False) -> list[dict[str, Any]]:
        """One dict a bucket, with the keys of `columns`."""
        columns = self.columns(bounds=bounds)
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def frame(self, *, bounds: bool = False) -> "pandas.DataFrame":
        """A DataFrame of `n` rows with `step` as index, `tokens`, `at` (UTC), and a column a metric.

        Raises `MissingPackageError` without pandas.
        """
        return _frame(self.columns(bounds=bounds)).set_index("step")


def frame(points: Iterable[Point] | Mapping[str, Metrics]) -> "pandas.DataFrame":
    """A DataFrame with `branch` and `step` as index, `tokens`, `at` (UTC), and a column a metric.

    Takes what `Client.stream` yields, and then returns when the stream ends; or what `Client.metrics_of` returns. A
    step that a later attempt took back, and all after it of that branch, are gone.
    """
    columns: dict[str, list[Any]] = {"branch": [], "step": [], "tokens": [], "at_ms": []}
    rows: list[dict[str, Any]] = []
    if isinstance(points, Mapping):
        for branch, metrics in points.items():
            rows += [{"branch": branch, **row} for row in metrics.rows()]
    else:
        for kept in latest(points).values():
            rows += [
                {"branch": p.branch, "step": p.step, "tokens": p.tokens, "at_ms": p.at_ms, **p.values} for p in kept
            ]
    for row in rows:
        for name in row:
            columns.setdefault(name, [])
    for name, column in columns.items():
        column += [row.get(name, math.nan) for row in rows]
    return _frame(columns).set_index(["branch", "step"])


def latest(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The points that count, by branch id, with ascending steps."""
    kept: dict[str, list[Point]] = {}
    for point in points:
        of_branch = kept.setdefault(point.branch_id, [])
        while of_branch and of_branch[-1].step >= point.step:
            of_branch.pop()
        of_branch.append(point)
    return kept


def points(experiment_id: str, branch: str, view: MetricsView) -> list[Point]:
    """The buckets of a branch's curves as points."""
    series = {name: floats(curve["mean"]) for name, curve in view["series"].items()}
    return [
        Point(experiment_id, view["branch_id"], branch, step, tokens, at_ms, {name: s[i] for name, s in series.items()})
        for i, (step, tokens, at_ms) in enumerate(zip(view["steps"], view["tokens"], view["at_ms"], strict=True))
    ]


def floats(values: list[float | None]) -> list[float]:
    """Numbers, `nan` for None."""
    return [math.nan if value is None else float(value) for value in values]


def _frame(columns: dict[str, list[Any]]) -> "pandas.DataFrame":
    try:
        import pandas
    except ImportError as error:
        raise MissingPackageError(
            "a DataFrame needs pandas: pip install 'senmon[pandas]'; columns() and rows() need nothing"
        ) from error
    times = pandas.to_datetime(columns["at_ms"], unit="ms", utc=True)
    return pandas.DataFrame({**columns, "at_ms": times}).rename(columns={"at_ms": "at"})

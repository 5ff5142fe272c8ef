"""Curves, what is streamed, and events."""

from typing import NotRequired, TypedDict


class EventView(TypedDict):
    """Something that happened, in one sentence for people."""

    id: int  # Grows with time; cursor of the list and of the stream.
    # `experiment_submitted`, `stage_finished`, `attempt_started`, `attempt_ended`, `checkpoint_committed`,
    # `branch_paused`, `worker_lost`, …
    kind: str
    experiment_id: NotRequired[str | None]  # The experiment concerned.
    branch_id: NotRequired[str | None]  # The branch concerned.
    step: NotRequired[int | None]  # The step concerned.
    at: str  # When.
    level: str  # `info`, `warn` or `error`.
    text: str  # The sentence.
    worker_id: NotRequired[str | None]  # The worker concerned.


class Curve(TypedDict):
    """One curve in buckets; null where no value of the bucket was finite."""

    max: NotRequired[list[float | None] | None]  # Largest of each bucket; absent when every bucket is one point.
    mean: list[float | None]  # Mean of each bucket.
    min: NotRequired[list[float | None] | None]  # Smallest of each bucket; absent when every bucket is one point.


class SupersededTail(TypedDict):
    """Points that a resume took back."""

    steps: list[int]
    fence: int  # Fence of the attempt that reported them.
    loss: list[float | None]


class MetricsView(TypedDict):
    """`GET /api/v1/branches/{id}/metrics`: curves, at most `points_max` points each."""

    branch_id: str  # The branch.
    steps: list[int]  # Last step of each bucket.
    at_ms: list[int]  # Milliseconds since the Unix epoch at that step.
    events: list[EventView]  # What happened to the branch, for marks on the axis.
    series: dict[str, Curve]  # Curves by metric name.
    superseded: list[SupersededTail]  # Points that a later attempt took the place of, newest attempt last.
    tokens: list[int]  # Tokens of the branch at that step.


class StreamMetrics(TypedDict):
    """New points of one branch."""

    experiment_id: str  # The experiment.
    branch_id: str  # The branch.
    steps: list[int]  # Steps, ascending.
    at_ms: list[int]  # Milliseconds since the Unix epoch at each step.
    series: dict[str, list[float | None]]  # Values by metric name; None where one is not finite.
    tokens: list[int]  # Tokens of the branch at each step.


class StreamExperiment(TypedDict):
    """An experiment changed."""

    experiment_id: str  # The experiment.

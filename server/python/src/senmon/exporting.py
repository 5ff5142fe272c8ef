"""What an experiment is to other programs: settings of branches, tags, and every point. Writes nowhere."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, cast

from senmon import errors, metrics
from senmon.client import Client
from senmon.metrics import Metrics, Point
from senmon.names import Thing
from senmon.types import BranchView, ExperimentView, MetricsView

STEPS = 5_000
"""Steps asked for at once."""
POINTS_MAX = 10_000
"""Points asked for them: more than enough for one a step."""
OVER = ("completed", "failed", "cancelled")


def settings(view: ExperimentView, branch: BranchView) -> dict[str, str]:
    """Settings of a branch by their path: `training.learning_rate`, `model.hidden_size`; lists are JSON."""
    found: dict[str, Any] = {
        "role": branch["role"],
        "domain": branch.get("domain"),
        "repeat": branch.get("repeat", 0),
        "steps": branch["steps"],
        "tokens": branch["tokens_total"],
        "corpus": view["spec"]["corpus"],
    }
    flat: dict[str, str] = {}
    _flatten("", found, flat)
    _flatten("training", branch.get("training"), flat)
    _flatten("model", view["spec"].get("model"), flat)
    _flatten("data", view["spec"].get("data"), flat)
    return flat


def tags(view: ExperimentView, branch: BranchView, headline: str | None) -> dict[str, str]:
    """What else is said of a branch; what is absent has no tag."""
    found: dict[str, str | None] = {
        "senmon.experiment": view["name"],
        "senmon.experiment_id": view["id"],
        "senmon.branch_id": branch["id"],
        "senmon.state": branch["state"],
        "senmon.why": branch.get("why"),
        "senmon.checkpoint_id": branch.get("checkpoint_id"),
        "senmon.headline": headline,
    }
    return {name: value for name, value in found.items() if value is not None}


def headline(client: Client, experiment: Thing) -> str | None:
    """The finding of an experiment's report, once it has one."""
    try:
        return client.report(experiment)["headline"]
    except errors.NotFoundError:
        return None


def points(client: Client, branch: BranchView, step_from: int = 0) -> Iterator[Point]:
    """Every point of a branch from a step on, with ascending steps; only the values that were measured there."""
    for start in range(step_from, branch["step"] + 1, STEPS):
        read = client.metrics(branch, step_from=start, step_to=start + STEPS - 1, points_max=POINTS_MAX)
        for point in metrics.points(branch["experiment_id"], branch["name"], _view(read)):
            values = {name: value for name, value in point.values.items() if value == value}
            yield Point(
                point.experiment_id, point.branch_id, point.branch, point.step, point.tokens, point.at_ms, values
            )


def _view(read: Metrics) -> MetricsView:
    return cast(MetricsView, {name: getattr(read, name) for name in Metrics.__dataclass_fields__})


def _flatten(path: str, value: Any, into: dict[str, str]) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _flatten(f"{path}.{key}" if path else key, inner, into)
    elif value is not None:
        into[path] = value if isinstance(value, str) else json.dumps(value)

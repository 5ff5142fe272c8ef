"""An experiment's branches as runs of an MLflow server: `senmon.mlflow.export("demo", "http://127.0.0.1:5000")`.

To read Senmon with MLflow's own client instead, without a copy, name Senmon's address as its tracking URI.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from senmon import errors, exporting
from senmon.client import Client
from senmon.metrics import Point
from senmon.names import Thing
from senmon.types import BranchView, ExperimentView

BRANCH = "senmon.branch_id"
"""The tag by which a run is found again."""
LOGGED = "senmon.logged"
"""The tag that says up to where a run has its points: step and milliseconds of the last."""
BATCH = 1000
"""Values that MLflow takes at once."""
STATES = {"running": "RUNNING", "completed": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}

T = TypeVar("T")


def export(
    experiment: Thing,
    tracking_uri: str | None = None,
    *,
    experiment_name: str | None = None,
    client: Client | None = None,
) -> dict[str, str]:
    """Writes an experiment to MLflow and returns the run ids by name of the branch.

    Each branch is a run with its settings as parameters, every point of every metric at its step and time, and tags,
    among them the report's headline. `tracking_uri`: MLflow's own setting where absent. `experiment_name`: the
    experiment's name where absent. `client`: `senmon.Client()` where absent.

    Called again, it adds what is new, and nothing twice. MLflow takes no point back: where an attempt was resumed from
    a checkpoint, and so replaced points that were written, the run is deleted and written anew. Raises
    `MissingPackageError` without mlflow.
    """
    if client is None:
        with Client() as own:
            return export(experiment, tracking_uri, experiment_name=experiment_name, client=own)
    view = client.experiment(experiment)
    headline = exporting.headline(client, view)
    target = _Target(_mlflow_client(tracking_uri), experiment_name or view["name"], view, headline)
    # Parents come first, so that a run can name its parent's.
    for branch in view["branches"]:
        target.write(client, branch)
    return target.run_ids


def _mlflow_client(tracking_uri: str | None) -> Any:
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise errors.MissingPackageError("senmon.mlflow needs mlflow: pip install 'senmon[mlflow]'") from error
    return MlflowClient(tracking_uri=tracking_uri)


class _Target:
    """An experiment of MLflow, and the runs that are there already."""

    def __init__(self, mlflow: Any, name: str, view: ExperimentView, headline: str | None) -> None:
        self._mlflow, self._view, self._headline = mlflow, view, headline
        found = mlflow.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":
            raise errors.ConfigurationError(
                f"experiment_name: MLflow's experiment {name!r} was deleted; restore it, or name another"
            )
        self._experiment_id = found.experiment_id if found is not None else mlflow.create_experiment(name)
        if headline is not None:
            mlflow.set_experiment_tag(self._experiment_id, "senmon.headline", headline)
            mlflow.set_experiment_tag(self._experiment_id, "mlflow.note.content", headline)
        self._there = {run.data.tags[BRANCH]: run for run in self._runs(view["id"])}
        self.run_ids: dict[str, str] = {}
        self._ids_by_branch: dict[str, str] = {}

    def write(self, client: Client, branch: BranchView) -> None:
        """Writes what is new of a branch."""
        run = self._there.get(branch["id"])
        logged = run.data.tags.get(LOGGED) if run is not None else None
        step, at_ms = (int(part) for part in logged.split(":")) if logged else (0, 0)
        points = exporting.points(client, branch, step)
        first = next(points, None)
        if run is not None and logged and (first is None or (first.step, first.at_ms) != (step, at_ms)):
            self._mlflow.delete_run(run.info.run_id)
            run, logged = None, None
            points = exporting.points(client, branch)
            first = next(points, None)
        if run is None:
            run = self._create(branch, first)
        id = run.info.run_id
        self.run_ids[branch["name"]] = self._ids_by_branch[branch["id"]] = id
        for name, value in exporting.tags(self._view, branch, self._headline).items():
            if run.data.tags.get(name) != value:
                self._mlflow.set_tag(id, name, value)
        last = first
        if first is not None:
            fresh = points if logged else _with(first, points)
            last = self._log(id, fresh) or first
        self._end(id, branch, last)

    def _create(self, branch: BranchView, first: Point | None) -> Any:
        from mlflow.entities import Param

        tags = {BRANCH: branch["id"], "senmon.experiment_id": self._view["id"], "mlflow.user": self._view["owner"]}
        parent = self._ids_by_branch.get(branch.get("parent_id") or "")
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = self._mlflow.create_run(
            self._experiment_id, start_time=first.at_ms if first else None, tags=tags, run_name=branch["name"]
        )
        settings = exporting.settings(self._view, branch)
        for params in _pieces((Param(name, value) for name, value in settings.items()), 100):
            self._mlflow.log_batch(run.info.run_id, params=params)
        return run

    def _log(self, id: str, points: Iterator[Point]) -> Point | None:
        """Writes points and how far they go, piece by piece; returns the last."""
        from mlflow.entities import Metric, RunTag

        last = None
        # A point has some ten values; what is written twice after a stop in between is one value to MLflow.
        for piece in _pieces(points, 100):
            values = [Metric(name, v, p.at_ms, p.step) for p in piece for name, v in p.values.items()]
            last = piece[-1]
            for batch in _pieces(values, BATCH):
                self._mlflow.log_batch(id, metrics=batch)
            self._mlflow.log_batch(id, tags=[RunTag(LOGGED, f"{last.step}:{last.at_ms}")])
        return last

    def _end(self, id: str, branch: BranchView, last: Point | None) -> None:
        state = STATES.get(branch["state"], "SCHEDULED")
        if branch["state"] in exporting.OVER:
            self._mlflow.set_terminated(id, state, last.at_ms if last else None)
        else:
            self._mlflow.update_run(id, state)

    def _runs(self, experiment_id: str) -> Iterator[Any]:
        token = None
        while True:
            runs = self._mlflow.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`senmon.experiment_id` = '{experiment_id}'",
                page_token=token,
            )
            yield from (run for run in runs if BRANCH in run.data.tags)
            token = runs.token
            if not token:
                return


def _with(first: Point, rest: Iterator[Point]) -> Iterator[Point]:
    yield first
    yield from rest


def _pieces(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece

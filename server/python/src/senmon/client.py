"""The client: one method for each thing that people do with a server. Never prints, holds only connections."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast

import httpx

from senmon import download, errors, experts, files, names, operations, reach, waiting
from senmon.download import Progress, Which
from senmon.files import Experiment
from senmon.metrics import Metrics, Point
from senmon.names import Thing
from senmon.stream import Follower
from senmon.transport import Transport
from senmon.types import (
    BranchView,
    ChangeExperiment,
    CheckpointView,
    CorpusView,
    DocumentFields,
    ExperimentSummary,
    ExperimentView,
    PlanView,
    Report,
)

if TYPE_CHECKING:
    from senmon.experts import Expert

States = str | Sequence[str]
"""One state, or several."""


class Client:
    """A Senmon server.

    An experiment is named by its id, its name (the latest of that name), or a view that the API gave; a branch by its
    id, as `EXPERIMENT/BRANCH`, or a view; a checkpoint by its id or a view; a corpus by its id, its name, or a view.
    Views are plain dicts, typed in `senmon.types`; times in them are ISO 8601 in UTC.

    Every method may raise `UnreachableError`, `UnauthenticatedError` (401), `ForbiddenError` (403), `NotFoundError`
    (404), `InvalidInputError` (422, with the faults by path), `ServerError` (5xx) and `TooManyRequestsError`, the last
    after having waited for two minutes as the server asked. What changes something carries an `Idempotency-Key`, so
    that it is done once even where an answer is lost and the request is sent again.

    One client may be used by several threads. Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        ca_file: str | os.PathLike[str] | None = None,
        insecure_http: bool | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Connects to nothing yet.

        `url`: SENMON_SERVER where absent, else http://127.0.0.1:8080. `token`: SENMON_TOKEN where absent, else the one
        that `senmon login` keeps. `ca_file`: PEM file of authorities to trust beside the usual ones; SENMON_CA_FILE.
        `insecure_http`: send the token over plain http to another machine; SENMON_INSECURE_HTTP. `transport`: httpx's,
        for tests. Raises `ConfigurationError`.
        """
        self._transport = Transport(reach.find(url, token, ca_file, insecure_http), transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"senmon.Client({self.url!r})"

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.reach.base

    # Experiments.

    def plan(
        self,
        experiment: Experiment,
        *,
        slots: int | None = None,
        peak_flops: float | None = None,
        utilisation: float | None = None,
        tokens_per_second: float | None = None,
        days: float | None = None,
    ) -> PlanView:
        """What an experiment would do, before anything runs; what would be refused is in `refused`, by path.

        `slots`: accelerators that work side by side, those of the fleet where absent; `peak_flops` of one in FLOP/s,
        and the share of it that training reaches (`utilisation`, 0 to 1), or `tokens_per_second` of one; `days` at
        hand: `fit` then says whether it fits, and what would. A YAML file needs PyYAML (`senmon[yaml]`).
        """
        given = {
            "slots": slots,
            "peak_flops": peak_flops,
            "utilisation": utilisation,
            "tokens_per_second": tokens_per_second,
            "days": days,
        }
        body = {"experiment": files.as_dict(experiment)} | {k: v for k, v in given.items() if v is not None}
        return self._transport.call(operations.PLAN, json_body=body)

    def submit(self, experiment: Experiment, *, idempotency_key: str | None = None) -> ExperimentView:
        """Submits a dict, or a YAML or JSON file as it is, and returns at once: see `wait`.

        With an `idempotency_key` of your own (1 to 200 ASCII characters), a script that is run again within a day
        submits nothing twice. Raises `InvalidInputError` with every fault of the file.
        """
        content, kind = files.as_body(experiment)
        return self._transport.call(
            operations.SUBMIT, content=content, content_type=kind, idempotency_key=idempotency_key
        )

    def experiment(self, experiment: Thing) -> ExperimentView:
        """An experiment with its stages and branches."""
        return self._transport.call(operations.EXPERIMENT, id=self._experiment_id(experiment))

    def experiments(
        self,
        *,
        q: str | None = None,
        state: States | None = None,
        labels: States | None = None,
        owner: str | None = None,
        sort: Literal["newest", "oldest", "name"] | None = None,
        archived: bool | None = None,
        limit: int | None = None,
    ) -> list[ExperimentSummary]:
        """Experiments, newest first: whose name contains `q`, in one of the states, with all of the labels.

        `owner`: only of this one. With `archived` those that were deleted instead; at most `limit`.
        """
        query = {"q": q, "state": state, "labels": labels, "owner": owner, "sort": sort, "archived": archived}
        return self._transport.pages(operations.EXPERIMENTS, query=query, limit=limit)

    def wait(
        self,
        experiment: Thing,
        *,
        progress: Callable[[ExperimentView], object] | None = None,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
    ) -> ExperimentView:
        """Waits until an experiment is completed, and returns it.

        `progress` is called with each view that differs from the one before; `senmon.PrintProgress()` prints a line a
        stage. Asks every `poll_s` seconds; a server that is away is waited for, five minutes long. Raises
        `ExperimentFailedError` with the reason when it failed or was cancelled, and `WaitTimeoutError` after
        `timeout_s` seconds: it goes on then.
        """
        id = self._experiment_id(experiment)
        view = waiting.until(
            f"experiment {id}",
            lambda: self._transport.call(operations.EXPERIMENT, id=id),
            waiting.experiment_over,
            lambda view: view.get("waits_for"),
            progress,
            timeout_s,
            poll_s,
        )
        if view["state"] != "completed":
            raise errors.ExperimentFailedError(view)
        return view

    def change(self, experiment: Thing, **given: Unpack[ChangeExperiment]) -> ExperimentView:
        """Changes what is given. Labels (words, or pairs such as `team=speech`) and the note (Markdown) take the place
        of those so far, also when the experiment is over; priority, deadline and budget raise `ConflictError` then.
        """
        known = self._experiment_id(experiment)
        return self._transport.call(operations.EXPERIMENT_CHANGE, json_body=given, id=known)

    def pause(self, experiment: Thing) -> ExperimentView:
        """Pauses an experiment: branches write a checkpoint and give their slots back. Raises `ConflictError`."""
        return self._transport.call(operations.EXPERIMENT_PAUSE, id=self._experiment_id(experiment))

    def resume(self, experiment: Thing) -> ExperimentView:
        """Goes on with a paused experiment. Raises `ConflictError`."""
        return self._transport.call(operations.EXPERIMENT_RESUME, id=self._experiment_id(experiment))

    def cancel(self, experiment: Thing) -> ExperimentView:
        """Stops an experiment for good. Raises `ConflictError` when it is over."""
        return self._transport.call(operations.EXPERIMENT_CANCEL, id=self._experiment_id(experiment))

    def report(self, experiment: Thing) -> Report:
        """What an experiment found: `headline`, and the tables. Raises `NotFoundError` until it is written."""
        return self._transport.call(operations.EXPERIMENT_REPORT, id=self._experiment_id(experiment))

    def spec(self, experiment: Thing) -> str:
        """The file that was submitted, as YAML with every default."""
        return self._transport.call(operations.EXPERIMENT_SPEC, id=self._experiment_id(experiment))

    # Branches and checkpoints.

    def branches(
        self, experiment: Thing, *, q: str | None = None, state: States | None = None, limit: int | None = None
    ) -> list[BranchView]:
        """Branches of an experiment, parents before children: whose name contains `q`, in one of the states."""
        query = {"q": q, "state": state}
        id = self._experiment_id(experiment)
        return self._transport.pages(operations.EXPERIMENT_BRANCHES, query=query, limit=limit, id=id)

    def branch(self, branch: Thing) -> BranchView:
        """A branch: its state, steps, tokens, last loss (nats per token) and last checkpoint."""
        return self._transport.call(operations.BRANCH, id=self._branch_id(branch))

    def checkpoints(
        self, *, experiment: Thing | None = None, branch: Thing | None = None, limit: int | None = None
    ) -> list[CheckpointView]:
        """Committed checkpoints, newest first: all, those of an experiment, or those of a branch."""
        query = {
            "experiment_id": None if experiment is None else self._experiment_id(experiment),
            "branch_id": None if branch is None else self._branch_id(branch),
        }
        return self._transport.pages(operations.CHECKPOINTS, query=query, limit=limit)

    def checkpoint(self, checkpoint: Thing) -> CheckpointView:
        """A checkpoint: its step, tokens, loss (nats per token), size in bytes, and SHA-256 of its manifest."""
        return self._transport.call(operations.CHECKPOINT, id=names.checkpoint_id(checkpoint))

    def last_checkpoint(self, branch: Thing) -> CheckpointView:
        """The last committed checkpoint of a branch. Raises `NotFoundError` when it has none yet."""
        view = self.branch(branch)
        id = view.get("checkpoint_id")
        if id is None:
            why = f"{view['name']} has no checkpoint yet; it is {view['state']}"
            raise errors.NotFoundError(404, "not_found", why)
        return self.checkpoint(id)

    def download(
        self,
        checkpoint: Thing,
        folder: str | os.PathLike[str],
        *,
        files: Which = "model",
        progress: Progress | None = None,
    ) -> Path:
        """Brings a checkpoint into a folder, and returns it.

        `files`: `"model"`, a Hugging Face folder; `"all"`, the trainer's state too; or names. Every file's SHA-256 is
        compared with the manifest. A transfer that breaks off goes on where it was, now or when this is called again;
        what is there already is not fetched. `progress(bytes_there, bytes_in_all)` is called after each piece. One
        folder takes one download at a time. Raises `DownloadError` when nothing more comes, `ChecksumError` when a file
        is not what the manifest says, and `OSError` when the disk refuses.
        """
        target = Path(folder)
        download.fetch(self._transport, self.checkpoint(checkpoint), target, files, progress)
        return target

    def load_expert(
        self,
        branch: Thing | None = None,
        *,
        checkpoint: Thing | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> "Expert":
        """A branch's last checkpoint, or the checkpoint that is named, as a model and a tokenizer of transformers.

        It is kept in `folder`, or in ~/.cache/senmon/checkpoints, and fetched once. `options` go to `from_pretrained`:
        `dtype=torch.bfloat16`, `device_map="cuda:0"`. Raises `MissingPackageError` without transformers,
        `NotFoundError` when the branch has no checkpoint yet, and what `download` raises.
        """
        experts.require_transformers()
        if (branch is None) == (checkpoint is None):
            raise errors.ConfigurationError("load_expert: expected either a branch or a checkpoint")
        found = self.last_checkpoint(branch) if branch is not None else self.checkpoint(cast(Thing, checkpoint))
        target = Path(folder) if folder is not None else experts.cache_folder(found["id"])
        if not download.is_there(found, target):
            download.fetch(self._transport, found, target, "model", progress)
        return experts.load(target, found, options)

    # Curves.

    def metrics(
        self,
        branch: Thing,
        *,
        keys: Sequence[str] | None = None,
        points_max: int | None = None,
        step_from: int | None = None,
        step_to: int | None = None,
    ) -> Metrics:
        """Curves of a branch: all metrics or those of `keys`, as columns, rows or a DataFrame.

        At most `points_max` points (1 to 10,000; 2,000 where absent): beyond, several steps are one point.
        """
        query = {"keys": keys, "points_max": points_max, "step_from": step_from, "step_to": step_to}
        return Metrics.of(self._transport.call(operations.BRANCH_METRICS, query=query, id=self._branch_id(branch)))

    def metrics_of(
        self,
        experiment: Thing,
        *,
        keys: Sequence[str] | None = None,
        points_max: int | None = None,
        step_from: int | None = None,
        step_to: int | None = None,
    ) -> dict[str, Metrics]:
        """Curves of all branches that have points, by name; `senmon.frame` makes one DataFrame of them."""
        id = self._experiment_id(experiment)
        query = {"keys": keys, "points_max": points_max, "step_from": step_from, "step_to": step_to}
        views = self._transport.call(operations.EXPERIMENT_METRICS, query=query, id=id)
        called = {branch["id"]: branch["name"] for branch in self.branches(id)}
        return {called.get(view["branch_id"], view["branch_id"]): Metrics.of(view) for view in views}

    def stream(
        self,
        experiment: Thing | None = None,
        *,
        branch: Thing | None = None,
        keys: Sequence[str] | None = None,
        past: bool = True,
        seconds: float | None = None,
    ) -> Iterator[Point]:
        """Points of an experiment or of one branch as they come, each once; ends when that is over, or after `seconds`.

        Begins with what is there already unless `past` is False. What the live stream leaves out is asked for, and a
        server that restarts is waited for, five minutes long. A point at a step that was passed takes that step back
        and all behind it: an attempt was resumed from a checkpoint. `senmon.frame` does so, and makes a DataFrame.
        """
        if (experiment is None) == (branch is None):
            raise errors.ConfigurationError("stream: expected either an experiment or a branch")
        branch_id = None
        if branch is not None:
            found = self.branch(branch)
            branch_id, experiment_id = found["id"], found["experiment_id"]
        else:
            experiment_id = self._experiment_id(cast(Thing, experiment))
        only = None if keys is None else list(keys)
        return Follower(self._transport, experiment_id, branch_id, only, seconds).points(past=past)

    # Corpora.

    def add_corpus(
        self,
        name: str,
        paths: Sequence[str],
        *,
        fields: DocumentFields | Mapping[str, Any] | None = None,
        tolerated_broken_share: float | None = None,
        tolerate_damaged_files: bool | None = None,
        idempotency_key: str | None = None,
    ) -> CorpusView:
        """Registers files, folders and globs on the server's disk, inside its `corpus_roots`; see `wait_corpus`.

        `fields` names the fields of a record: `{"text": "text", "id": "id"}`. `tolerated_broken_share` (0 to 1) of the
        records may be broken; with `tolerate_damaged_files` a file that ends early is taken up to its damage.
        """
        if isinstance(paths, str):
            raise errors.ConfigurationError(f"paths: found the text {paths!r}, expected a list of paths")
        given = {
            "fields": fields,
            "tolerated_broken_share": tolerated_broken_share,
            "tolerate_damaged_files": tolerate_damaged_files,
        }
        body = {"name": name, "paths": list(paths)} | {k: v for k, v in given.items() if v is not None}
        return self._transport.call(operations.ADD_CORPUS, json_body=body, idempotency_key=idempotency_key)

    def wait_corpus(
        self,
        corpus: Thing,
        *,
        progress: Callable[[CorpusView], object] | None = None,
        timeout_s: float | None = None,
        poll_s: float = 0.3,
    ) -> CorpusView:
        """Waits until a corpus is read. Raises `CorpusFailedError` with the reason, or `WaitTimeoutError`."""
        name = names.corpus_name(corpus)
        view = waiting.until(
            f"corpus {name}",
            lambda: self._transport.call(operations.CORPUS, id=name),
            waiting.corpus_over,
            waiting.corpus_waits_for,
            progress,
            timeout_s,
            poll_s,
        )
        if view["state"] != "ready":
            raise errors.CorpusFailedError(view)
        return view

    def corpus(self, corpus: Thing) -> CorpusView:
        """A corpus: its files, what was counted, and what was left out or broken."""
        return self._transport.call(operations.CORPUS, id=names.corpus_name(corpus))

    def corpora(
        self, *, q: str | None = None, state: States | None = None, limit: int | None = None
    ) -> list[CorpusView]:
        """Corpora: whose name contains `q`, in one of the states."""
        return self._transport.pages(operations.CORPORA, query={"q": q, "state": state}, limit=limit)

    def _experiment_id(self, experiment: Thing) -> str:
        return names.experiment_id(self._transport, experiment)

    def _branch_id(self, branch: Thing) -> str:
        return names.branch_id(self._transport, branch)

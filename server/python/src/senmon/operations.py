"""Every operation of the API that this client uses, in one table. Nothing else is ever asked of a server.

The contract test holds each line against `server/openapi.json`: method and path, query parameters, the body's fields,
the answer's type, and whether the operation takes an `Idempotency-Key`.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from senmon.types import (
    BranchView,
    ChangeExperiment,
    CheckpointView,
    CorpusView,
    ExperimentSpec,
    ExperimentSummary,
    ExperimentView,
    MetricsView,
    Page,
    PlanRequest,
    PlanView,
    RegisterCorpus,
    Report,
)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Operation(Generic[Answer]):
    """One operation. `answer` is the type of the JSON that a success has; `str` and `bytes` stand for other bodies."""

    method: str
    path: str  # Below `/api/v1`; `{id}` and `{name}` are filled in.
    answer: type[Answer]
    query: tuple[str, ...] = ()
    body: Any = None  # Type of the JSON that is sent.

    @property
    def keyed(self) -> bool:
        """Whether it changes something, and so goes with an `Idempotency-Key`."""
        return self.method != "GET" and self is not PLAN


PAGE = ("cursor", "limit")
CURVES = ("keys", "points_max", "step_from", "step_to")

PLAN = Operation("POST", "/plan", PlanView, body=PlanRequest)
SUBMIT = Operation("POST", "/experiments", ExperimentView, body=ExperimentSpec)
EXPERIMENTS = Operation(
    "GET",
    "/experiments",
    Page[ExperimentSummary],
    query=("q", "state", "labels", "owner", "sort", "archived", *PAGE),
)
EXPERIMENT = Operation("GET", "/experiments/{id}", ExperimentView)
EXPERIMENT_CHANGE = Operation("PATCH", "/experiments/{id}", ExperimentView, body=ChangeExperiment)
EXPERIMENT_PAUSE = Operation("POST", "/experiments/{id}/pause", ExperimentView)
EXPERIMENT_RESUME = Operation("POST", "/experiments/{id}/resume", ExperimentView)
EXPERIMENT_CANCEL = Operation("POST", "/experiments/{id}/cancel", ExperimentView)
EXPERIMENT_REPORT = Operation("GET", "/experiments/{id}/report", Report)
EXPERIMENT_SPEC = Operation("GET", "/experiments/{id}/spec", str)
EXPERIMENT_BRANCHES = Operation("GET", "/experiments/{id}/branches", Page[BranchView], query=("q", "state", *PAGE))
EXPERIMENT_METRICS = Operation("GET", "/experiments/{id}/metrics", list[MetricsView], query=CURVES)

BRANCH = Operation("GET", "/branches/{id}", BranchView)
BRANCH_METRICS = Operation("GET", "/branches/{id}/metrics", MetricsView, query=CURVES)

CHECKPOINTS = Operation("GET", "/checkpoints", Page[CheckpointView], query=("experiment_id", "branch_id", *PAGE))
CHECKPOINT = Operation("GET", "/checkpoints/{id}", CheckpointView)
CHECKPOINT_FILE = Operation("GET", "/checkpoints/{id}/files/{name}", bytes)

CORPORA = Operation("GET", "/corpora", Page[CorpusView], query=("q", "state", *PAGE))
CORPUS = Operation("GET", "/corpora/{id}", CorpusView)
ADD_CORPUS = Operation("POST", "/corpora", CorpusView, body=RegisterCorpus)

STREAM = Operation("GET", "/stream", str, query=("experiment_id",))

ALL: dict[str, Operation[Any]] = {name: found for name, found in globals().items() if isinstance(found, Operation)}

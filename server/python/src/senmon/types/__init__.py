"""Types of what the API takes and gives: one TypedDict a schema of `server/openapi.json`, under the schema's name.

At run time they are plain dicts, as they came. `dict[str, Any]` stands where this client looks no deeper.
"""

from typing import Generic, NotRequired, TypedDict, TypeVar

from senmon.types.checkpoints import CheckpointKind, CheckpointMeta, CheckpointView
from senmon.types.corpora import (
    BrokenRecord,
    CorpusFile,
    CorpusState,
    CorpusView,
    DocumentCounts,
    DocumentFields,
    FileFormat,
    FileProblem,
    FileProblemKind,
    LeftOut,
    LeftOutFile,
    RegisterCorpus,
    ScanProgress,
    TextDocuments,
)
from senmon.types.curves import Curve, EventView, MetricsView, StreamExperiment, StreamMetrics, SupersededTail
from senmon.types.experiments import (
    BranchRole,
    BranchState,
    BranchView,
    ChangeExperiment,
    ExperimentSpec,
    ExperimentState,
    ExperimentSummary,
    ExperimentView,
    PlanFit,
    PlannedBranch,
    PlannedStage,
    PlanRequest,
    PlanView,
    Report,
    Stage,
    StageProgress,
    StageState,
)
from senmon.types.problems import BrokenRow, Fault, Problem

Item = TypeVar("Item")


class Page(TypedDict, Generic[Item]):
    """One page of a list. Its schema is `Page_<name of the items' schema>`."""

    items: list[Item]
    next_cursor: NotRequired[str | None]  # `cursor` of the next page; None on the last.
    broken: NotRequired[list[BrokenRow]]  # Rows that the server cannot read.


__all__ = [
    "BranchRole",
    "BranchState",
    "BranchView",
    "BrokenRecord",
    "BrokenRow",
    "ChangeExperiment",
    "CheckpointKind",
    "CheckpointMeta",
    "CheckpointView",
    "CorpusFile",
    "CorpusState",
    "CorpusView",
    "Curve",
    "DocumentCounts",
    "DocumentFields",
    "EventView",
    "ExperimentSpec",
    "ExperimentState",
    "ExperimentSummary",
    "ExperimentView",
    "Fault",
    "FileFormat",
    "FileProblem",
    "FileProblemKind",
    "LeftOut",
    "LeftOutFile",
    "MetricsView",
    "Page",
    "PlanRequest",
    "PlanView",
    "PlanFit",
    "PlannedBranch",
    "PlannedStage",
    "Problem",
    "RegisterCorpus",
    "Report",
    "ScanProgress",
    "Stage",
    "StageProgress",
    "StageState",
    "StreamExperiment",
    "StreamMetrics",
    "SupersededTail",
    "TextDocuments",
]

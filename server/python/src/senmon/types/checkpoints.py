"""Checkpoints, and the manifest that commits each."""

from typing import Any, Literal, NotRequired, TypedDict

CheckpointKind = Literal["resumable", "weights"]


class CheckpointMeta(TypedDict):
    """Lineage and size of a checkpoint."""

    kind: CheckpointKind  # What it can be used for.
    experiment_id: str  # The experiment.
    branch_id: str  # The branch.
    step: int  # Optimiser steps of the branch so far.
    bytes: int  # Bytes of all files.
    config_sha256: str  # SHA-256 of the job's settings that shape the result.
    fence: int  # Fence of the attempt that wrote it.
    # What the branch and its ancestors have drawn up to here; a branch from here goes on behind it.
    lineage: NotRequired[dict[str, Any]]
    loss: NotRequired[float | None]  # Loss of the last step, nats per token.
    # The checkpoint before it on the lineage: the branch's last one, or the parent's.
    parent_id: NotRequired[str | None]
    state_sha256: str  # SHA-256 over weights, moments, step and cursor in a fixed order: equal states, equal digests.
    tokens: int  # Tokens of the branch so far.


class CheckpointView(TypedDict):
    """A checkpoint."""

    id: str
    kind: CheckpointKind  # The same as `meta.kind`, for filters.
    branch: str  # Name of the branch.
    created_at: str  # When it was committed.
    experiment: str  # Name of the experiment.
    folder: str  # The folder in the store.
    manifest_sha256: str  # SHA-256 of the manifest.
    meta: CheckpointMeta  # What the manifest says.
    problem: NotRequired[str | None]  # What is missing or altered; no branch resumes from such a checkpoint.
    # When its files were last read and compared with the manifest; None where they are to be read next.
    verified_at: NotRequired[str | None]

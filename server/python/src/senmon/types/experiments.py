"""Experiments, their branches, plans and reports."""

from typing import Any, Literal, NotRequired, TypedDict

from senmon.types.problems import BrokenRow, Fault

StageState = Literal["waiting", "running", "done", "skipped", "failed"]
Stage = Literal["discover", "shard", "seed", "branches", "merge", "evaluate", "report"]
ExperimentState = Literal["running", "paused", "completed", "failed", "cancelled"]
BranchState = Literal["waiting", "queued", "running", "paused", "completed", "failed", "cancelled"]
BranchRole = Literal["seed", "expert", "dense", "random", "chain", "tree", "average"]


class StageProgress(TypedDict):
    """How far a stage is."""

    state: StageState  # Where it stands.
    stage: Stage
    done: int  # Units done: files, tokens, evaluations, …
    finished_at: NotRequired[str | None]  # When it ended.
    seconds_left: NotRequired[float | None]  # Seconds left, from the rate so far.
    started_at: NotRequired[str | None]  # When it began.
    total: int  # Units in all; 0 while unknown.
    unit: str  # The unit, for people: `files`, `tokens`, `evaluations`, `documents`.


class ExperimentSpec(TypedDict):
    """One submission."""

    name: str  # Name shown to people; need not be unique.
    budget: NotRequired[dict[str, Any]]  # What it may take in all.
    clustering: dict[str, Any]  # How the corpus is divided into domains.
    controls: NotRequired[dict[str, Any]]  # Branches trained for comparison.
    corpus: str  # Name or id of a registered corpus.
    data: dict[str, Any]  # How documents become windows.
    # When it should be done: once that is close, its jobs go before others of their priority.
    deadline: NotRequired[str | None]
    description: NotRequired[str]  # Free words for people.
    evaluation: NotRequired[dict[str, Any]]  # What is measured in the end.
    labels: NotRequired[list[str]]  # Labels for filtering: words (`overnight`) or pairs (`team=speech`).
    # How often a failing job of this experiment is tried again for the user's own faults.
    max_restarts: NotRequired[int]
    # Shape of the model; left out when the seed is a checkpoint, which brings its own.
    model: NotRequired[dict[str, Any] | None]
    plan: list[dict[str, Any]]  # Groups of branches. All start from the seed; groups run side by side.
    priority: NotRequired[int]  # 0 to 100, higher first.
    resources: NotRequired[dict[str, Any]]  # What each slot of its jobs must offer.
    retention: NotRequired[dict[str, Any]]  # Which checkpoints of each branch stay.
    seed: dict[str, Any]  # Where the branches start.
    tokenizer: dict[str, Any]
    training: dict[str, Any]  # Training settings of every branch, unless a branch says otherwise.
    weight_average: NotRequired[bool]  # Whether the plain average of the experts' weights is built and measured.


class ExperimentSummary(TypedDict):
    """An experiment in a list."""

    id: str
    name: str
    state: ExperimentState
    created_at: str  # When it was submitted.
    # Ensemble perplexity over dense perplexity − 1, in percent (negative is better), once known.
    ensemble_vs_dense_percent: NotRequired[float | None]
    finished_at: NotRequired[str | None]  # When it ended.
    labels: list[str]
    owner: str  # Name of the token that submitted it.
    priority: int  # 0 to 100.
    problem: NotRequired[str | None]  # Why it failed, or why the server paused it, in sentences.
    seconds_left: NotRequired[float | None]  # Seconds left, once the rate is known.
    stages: list[StageProgress]
    tokens_done: int  # Tokens trained by all branches.
    tokens_total: int  # Token budget of all branches (an estimate until the shards are known).


class BranchView(TypedDict):
    """One branch."""

    id: str
    name: str  # Name, unique in the experiment: `seed`, `expert-3`, `dense`, `random-0`, `chain-2`, `average`.
    state: BranchState
    role: BranchRole  # What it is for.
    experiment_id: str  # The experiment.
    step: int  # Steps so far, on the current lineage.
    steps: int  # Steps in all.
    attempts: int  # Attempts so far.
    checkpoint_id: NotRequired[str | None]  # The last committed checkpoint.
    domain: NotRequired[int | None]  # Its domain, for experts and links of a chain.
    loss: NotRequired[float | None]  # Last reported loss.
    mixture: NotRequired[dict[str, Any] | None]  # What it draws from.
    parent_id: NotRequired[str | None]  # The branch it starts from.
    # Which training with another seed it belongs to, from 0; `expert-3~2` is repeat 1 of `expert-3`.
    repeat: NotRequired[int]
    seconds_left: NotRequired[float | None]  # Seconds left, while it runs.
    sparkline: list[float]  # At most 32 smoothed losses over the branch so far, for a sparkline.
    # The checkpoint that a fork starts from; other branches start from their parent's last.
    start_checkpoint_id: NotRequired[str | None]
    tokens: int  # Tokens so far.
    tokens_per_second: NotRequired[float | None]  # Tokens per second of the last interval, while it runs.
    tokens_total: int  # Token budget.
    training: NotRequired[dict[str, Any] | None]  # Its settings.
    wall_seconds: float  # Seconds spent in attempts.
    why: NotRequired[str | None]  # Why it waits or failed, in one sentence.
    worker: NotRequired[str | None]  # The worker that has it.


class ExperimentView(ExperimentSummary):
    """One experiment."""

    branches: list[BranchView]  # The branches, parents before children.
    broken: NotRequired[list[BrokenRow]]  # Branches that cannot be read.
    clustering_id: NotRequired[str | None]  # The clustering, once asked for.
    corpus_id: str  # The corpus.
    note: NotRequired[str]  # Note of people, in Markdown; empty where there is none.
    spec: ExperimentSpec  # The submission.
    waits_for: NotRequired[str | None]  # What it waits for, in a sentence; or why it is set aside.


class ChangeExperiment(TypedDict, total=False):
    """What may be changed while an experiment goes on; labels and note, also when it is over. What is absent stays."""

    priority: int | None  # 0 to 100, higher first.
    deadline: str | None  # When it should be done.
    budget: dict[str, Any] | None  # What it may take in all, instead of the budget so far.
    # All of its labels, instead of those so far: words (`overnight`) or pairs (`team=speech`).
    labels: list[str] | None
    note: str | None  # Its note, in Markdown, instead of the one so far; empty for none.


class PlanRequest(TypedDict):
    """Body of `POST /api/v1/plan`."""

    days: NotRequired[float | None]  # Days at hand: the answer then says whether the plan fits, and what would.
    experiment: ExperimentSpec  # The experiment file.
    # Peak of one of them in FLOP/s (989e12 for an H100 in bf16, dense). Needed where nothing was measured yet.
    peak_flops: NotRequired[float | None]
    # Accelerators (or CPU slots) that work side by side; those of the fleet when absent.
    slots: NotRequired[int | None]
    tokens_per_second: NotRequired[float | None]  # Tokens per second of one slot, instead of the two above.
    utilisation: NotRequired[float | None]  # Share of that peak that training reaches: 0.4 is usual.


class PlannedBranch(TypedDict):
    """One branch of a plan."""

    name: str
    role: BranchRole  # What it is for.
    steps: int
    checkpoint_bytes: int  # Bytes of its checkpoints.
    domain: NotRequired[int | None]  # Its domain.
    # Share of its tokens that its lineage reads for the first time, 0 to 1; equal domains are assumed before they are
    # known. None where it draws nothing.
    fresh_share: NotRequired[float | None]
    parent: NotRequired[str | None]  # Name of its parent.
    repeat: NotRequired[int]  # Which training with another seed it belongs to, from 0 (`evaluation.repeats`).
    seconds: NotRequired[float | None]  # Seconds on its slots.
    tokens: int


class PlannedStage(TypedDict):
    """One stage of a plan."""

    stage: Stage
    # Seconds from the end of the stages before it to its own; None where nothing of its kind was measured yet.
    seconds: NotRequired[float | None]


class PlanFit(TypedDict):
    """A plan against the days at hand."""

    days: float  # Days at hand.
    days_needed: float  # Days that the plan takes.
    longest: str  # The branch that takes longest.
    longest_days: float  # Days that it takes.
    budgets_times: NotRequired[float | None]  # What all budgets may be multiplied with so that the plan just fits.
    tokens: NotRequired[int | None]  # Tokens of all branches then.
    slots: NotRequired[int | None]  # The fewest slots with which the plan fits as it is; None where no number does.


class PlanView(TypedDict):
    """What an experiment would do."""

    branches: list[PlannedBranch]  # The branches, parents before children.
    checkpoint_bytes: int  # Bytes of the checkpoints that stay.
    checkpoint_bytes_each: int  # Bytes of one resumable checkpoint.
    # Tokens of the corpus: counted where it is sharded, else estimated from its bytes.
    corpus_tokens: NotRequired[int | None]
    fit: NotRequired[PlanFit | None]  # Whether this plan fits in the days at hand, and what would.
    flops_per_token: float  # FLOPs per trained token.
    parameters: int  # Parameters of the model.
    refused: list[Fault]  # What would be refused.
    seconds: NotRequired[float | None]  # Wall time in seconds with those slots, parents before children.
    slots: int  # Slots assumed.
    stages: NotRequired[list[PlannedStage]]  # How long each stage takes.
    throughput_source: str  # Where that figure comes from, in words.
    tokens: int  # Tokens of all branches.
    tokens_in_days: NotRequired[int | None]  # Tokens that the slots could train in the days at hand, at most.
    tokens_per_second: NotRequired[float | None]  # Tokens per second of one slot.
    warnings: list[Fault]  # What is allowed but worth a look.


class Report(TypedDict):
    """What an experiment found. Perplexities are per token, on the reported half of the held-out documents."""

    name: str  # Its name.
    experiment_id: str  # The experiment.
    basis: dict[str, Any]  # What the figures stand on.
    chains: list[dict[str, Any]]  # Where chains forgot.
    clustering: dict[str, Any]  # Quality of the clustering.
    # One line a contestant: seed, dense, random-split ensemble, best single expert, weight average, the routed
    # ensemble as it was chosen, and at each number of experts.
    contestants: list[dict[str, Any]]
    costs: list[dict[str, Any]]  # What each branch cost.
    created_at: str  # When the report was made.
    domains: list[dict[str, Any]]
    headline: str  # The finding in one sentence.
    held_out: NotRequired[dict[str, Any] | None]  # The held-out documents; None in reports of older versions.
    matrix: list[dict[str, Any]]  # Loss of every model on every domain.
    method: list[str]  # How it was measured, in sentences.
    # The routed ensemble at every number of experts and every temperature, on both halves; of the first repeat.
    surface: list[dict[str, Any]]

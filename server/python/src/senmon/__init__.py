"""Client of Senmon, the orchestrator of expert training.

import senmon

with senmon.Client() as client:  # SENMON_SERVER and SENMON_TOKEN
    experiment = client.submit("configs/experiments/quick.yaml")
    done = client.wait(experiment, progress=senmon.PrintProgress())
    print(client.report(done)["headline"])
    expert = client.load_expert("quick/expert-0")
"""

from senmon._version import __version__
from senmon.client import Client
from senmon.errors import (
    ChecksumError,
    ConfigurationError,
    ConflictError,
    CorpusFailedError,
    DownloadError,
    ExperimentFailedError,
    ForbiddenError,
    InvalidInputError,
    MissingPackageError,
    NotFoundError,
    ProblemError,
    SenmonError,
    ServerError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnexpectedAnswerError,
    UnreachableError,
    WaitTimeoutError,
)
from senmon.experts import Expert
from senmon.metrics import Metrics, Point, frame, latest
from senmon.waiting import PrintProgress, stage_line

__all__ = [
    "ChecksumError",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "CorpusFailedError",
    "DownloadError",
    "ExperimentFailedError",
    "Expert",
    "ForbiddenError",
    "InvalidInputError",
    "Metrics",
    "MissingPackageError",
    "NotFoundError",
    "Point",
    "PrintProgress",
    "ProblemError",
    "SenmonError",
    "ServerError",
    "TooManyRequestsError",
    "UnauthenticatedError",
    "UnexpectedAnswerError",
    "UnreachableError",
    "WaitTimeoutError",
    "__version__",
    "frame",
    "latest",
    "stage_line",
]

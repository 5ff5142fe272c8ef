"""What can go wrong, as exceptions. All of them are a `SenmonError`."""

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senmon.types import CorpusView, ExperimentView, Fault


class SenmonError(Exception):
    """Anything that this package raises on purpose."""


class ConfigurationError(SenmonError, ValueError):
    """An argument or environment variable cannot be used; the text names it, what was found and what is accepted."""


class UnreachableError(SenmonError):
    """No server answers at the address, or it went away in the middle of an answer."""


class UnexpectedAnswerError(SenmonError):
    """Something answered that is no Senmon server, or one of another version."""


class ProblemError(SenmonError):
    """The server refused or failed, and said why (RFC 9457).

    `status` is the HTTP status, `code` a stable word for scripts (`invalid_input`, `not_found`, …), `detail` a
    sentence, `request_id` what to quote, `faults` every fault of the input, and `faults_by_path` the same by path:
    `{"plan[0].tokens": "found ..., expected ..."}`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        title: str = "",
        faults: "list[Fault] | None" = None,
        request_id: str = "",
    ) -> None:
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.faults = faults or []
        self.request_id = request_id
        super().__init__(self._text())

    @property
    def faults_by_path(self) -> dict[str, str]:
        """What is wrong, by path; several faults of one path are joined by `; `."""
        found: dict[str, str] = {}
        for fault in self.faults:
            before = found.get(fault["path"])
            found[fault["path"]] = f"{before}; {fault['message']}" if before else fault["message"]
        return found

    def _text(self) -> str:
        lines = [self.detail or self.title or f"the server answers {self.status}"]
        faults = (f"{fault['path']}: {fault['message']}" for fault in self.faults)
        lines += [f"  {fault}" for fault in faults if fault != self.detail]  # A single fault is the detail already.
        if self.request_id:
            lines.append(f"  request {self.request_id}")
        return "\n".join(lines)


class InvalidInputError(ProblemError):
    """400, 413, 415, 422: the input has faults; `faults_by_path` names them."""


class UnauthenticatedError(ProblemError):
    """401: no token, or one that is not accepted."""


class ForbiddenError(ProblemError):
    """403: the token's role may not do this."""


class NotFoundError(ProblemError):
    """404: there is no such thing."""


class ConflictError(ProblemError):
    """409, 412: its state does not allow it, or a name is taken."""


class TooManyRequestsError(ProblemError):
    """429: still, after waiting for as long as the server said."""


class ServerError(ProblemError):
    """5xx: the server failed, is away from its database, or has no room. The request may be sent again."""


class ExperimentFailedError(SenmonError):
    """An experiment that was waited for failed or was cancelled: `experiment` is its last view."""

    def __init__(self, experiment: "ExperimentView") -> None:
        self.experiment = experiment
        self.state = experiment["state"]
        why = [experiment.get("problem") or f"it was {self.state}"]
        # The experiment's own reason often is a branch's.
        failed = ((b["name"], b.get("why")) for b in experiment["branches"] if b["state"] == "failed")
        why += [f"  {name}: {reason}" for name, reason in failed if reason and reason not in why[0]]
        super().__init__(f"experiment {experiment['name']} {self.state}: " + "\n".join(why))


class CorpusFailedError(SenmonError):
    """A corpus that was waited for was refused after reading: `corpus` is its last view."""

    def __init__(self, corpus: "CorpusView") -> None:
        self.corpus = corpus
        super().__init__(f"corpus {corpus['name']}: {corpus.get('problem') or 'no reason was given'}")


class WaitTimeoutError(SenmonError, TimeoutError):
    """What was waited for did not end in the time that was given. It goes on at the server."""


class DownloadError(SenmonError):
    """A file did not come whole. What came is kept, and the next download goes on behind it."""


class ChecksumError(DownloadError):
    """A file came whole, and is not what the manifest says. It was deleted."""


class MissingPackageError(SenmonError, ImportError):
    """An optional package that is needed for this is not installed; the text says how to install it."""


KINDS: dict[int, type[ProblemError]] = {
    400: InvalidInputError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
    413: InvalidInputError,
    415: InvalidInputError,
    422: InvalidInputError,
    429: TooManyRequestsError,
}


def of_answer(status: int, body: bytes, *, base: str, has_token: bool) -> SenmonError:
    """The exception for an answer that is no success."""
    try:
        problem = json.loads(body)
        code, detail = str(problem["code"]), str(problem["detail"])
    except (ValueError, TypeError, KeyError):
        return UnexpectedAnswerError(f"{base} answers {status}: is it a Senmon server?")
    if status == 401:
        hint = "the token is not accepted" if has_token else "no token was given"
        detail = f"{detail}\n  {hint}: give Client(token=...), set SENMON_TOKEN, or run senmon login"
    kind = KINDS.get(status, ServerError if status >= 500 else ProblemError)
    return kind(
        status,
        code,
        detail,
        title=str(problem.get("title", "")),
        faults=problem.get("faults") or [],
        request_id=str(problem.get("request_id", "")),
    )

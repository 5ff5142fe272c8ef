"""Problem documents (RFC 9457), and rows that the server cannot read."""

from typing import NotRequired, TypedDict


class Fault(TypedDict):
    """One fault of an input."""

    path: str  # Path in the file or body: `plan[0].tokens`.
    message: str  # What was found and what is accepted.


class Problem(TypedDict):
    """Body of every answer that is no success."""

    title: str  # The kind of problem in words.
    code: str  # Stable word for scripts: `invalid_input`, `not_found`, `stale_fence`, `conflict`, `unauthenticated`, …
    detail: str  # What happened this time: the field or file, what was found, what is accepted.
    faults: NotRequired[list[Fault]]  # Every fault of the input.
    request_id: NotRequired[str]  # Id of the request, to quote.
    status: int  # HTTP status.
    type: str  # `/problems/<code>`.


class BrokenRow(TypedDict):
    """A row of the database that this program cannot read: it hides itself, and spoils no list."""

    id: str  # Id of what cannot be read.
    problem: str  # What it is, and why it cannot be read.

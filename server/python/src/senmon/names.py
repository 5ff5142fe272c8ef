"""From what people have at hand to ids: an id, a name, or what the API gave. Never guesses."""

import uuid
from collections.abc import Mapping
from typing import Any

from senmon import errors, operations
from senmon.transport import Transport

Thing = str | Mapping[str, Any]
"""An id, a name, or the view that the API gave of it."""


def experiment_id(transport: Transport, experiment: Thing) -> str:
    """Id of an experiment; of several with one name the latest."""
    text = _text("experiment", experiment)
    if is_id(text):
        return text
    found = transport.pages(operations.EXPERIMENTS, query={"q": text, "sort": "newest"})
    for item in found:
        if item["name"] == text:
            return item["id"]
    raise _none("experiment", text, "an id, or the name of one", [item["name"] for item in found])


def branch_id(transport: Transport, branch: Thing) -> str:
    """Id of a branch: an id, or `EXPERIMENT/BRANCH`."""
    text = _text("branch", branch)
    if is_id(text):
        return text
    experiment, slash, name = text.rpartition("/")
    if not slash:
        raise errors.ConfigurationError(
            f"branch: found {text!r}, expected an id, or EXPERIMENT/BRANCH such as demo/expert-3"
        )
    found = transport.pages(operations.EXPERIMENT_BRANCHES, id=experiment_id(transport, experiment))
    for item in found:
        if item["name"] == name:
            return item["id"]
    raise _none("branch", name, f"a branch of {experiment}", [item["name"] for item in found])


def checkpoint_id(checkpoint: Thing) -> str:
    """Id of a checkpoint, which has no name."""
    text = _text("checkpoint", checkpoint)
    if is_id(text):
        return text
    raise errors.ConfigurationError(f"checkpoint: found {text!r}, expected an id")


def corpus_name(corpus: Thing) -> str:
    """Id or name of a corpus; the server takes either."""
    return _text("corpus", corpus)


def is_id(text: str) -> bool:
    """Whether a text is an id: a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _text(noun: str, thing: Thing) -> str:
    found = thing.get("id") if isinstance(thing, Mapping) else thing
    if not isinstance(found, str) or not found:
        raise errors.ConfigurationError(f"{noun}: found {thing!r:.80}, expected an id, a name, or what the API gave")
    return found


def _none(noun: str, text: str, expected: str, there: list[str]) -> errors.NotFoundError:
    beside = f"; there are {', '.join(there[:20])}" if there else ""
    return errors.NotFoundError(404, "not_found", f"{noun}: found {text!r}, expected {expected}{beside}")

"""Requests and answers over HTTP: the only place that knows of httpx's client. Never decides what a failure means."""

import contextlib
import json
import ssl
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from senmon import errors
from senmon._version import __version__
from senmon.operations import Operation
from senmon.reach import Reach
from senmon.types import Page

Answer = TypeVar("Answer")
Item = TypeVar("Item")

PAGE_MAX = 500
"""Items asked for at once: the most that the server gives."""
PATIENCE_SECONDS = 120
"""Longest time that one call waits altogether because the server asks for patience (429)."""
PAUSES_SECONDS = (0.3, 1.0)
"""Pauses before a request is sent again whose answer did not come. All that this client sends may be repeated."""
ANSWER_SECONDS = 60
"""Longest silence in an answer."""


class Transport:
    """A server that is asked for operations. One of it may be used by several threads."""

    def __init__(self, reach: Reach, transport: httpx.BaseTransport | None = None) -> None:
        self.reach = reach
        headers = {"user-agent": f"senmon-python/{__version__}"}
        if reach.token is not None:
            headers["authorization"] = f"Bearer {reach.token}"
        self._http = httpx.Client(
            base_url=f"{reach.base}/api/v1/",
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=5),
            # The API sends nobody elsewhere; a token goes where it was meant to go.
            follow_redirects=False,
            # A proxy of the environment would read the token of a plain request.
            trust_env=reach.encrypted,
            verify=_authorities(reach.ca_file) if reach.encrypted else True,
            transport=transport,
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def call(
        self,
        operation: Operation[Answer],
        *,
        query: Mapping[str, object] | None = None,
        json_body: object = None,
        content: bytes | None = None,
        content_type: str = "application/json",
        idempotency_key: str | None = None,
        id: str | None = None,
    ) -> Answer:
        """The answer of an operation. `id` fills its path in; parameters of `query` that are None are left out."""
        path = {} if id is None else {"id": id}
        if json_body is not None:
            content = to_json(json_body)
        headers = {"content-type": content_type} if content is not None else {}
        if operation.keyed:
            # The same key at each try: what was done already is not done again.
            headers["idempotency-key"] = idempotency_key or str(uuid.uuid4())
        body = self._exchange(self._request(operation, path, query, headers, content))
        if operation.answer is str:
            return body.decode()  # type: ignore[return-value]
        try:
            found: Answer = json.loads(body)
        except ValueError as error:
            raise errors.UnexpectedAnswerError(
                f"{operation.method} {operation.path}: found no JSON: is {self.reach.base} a Senmon server?"
            ) from error
        return found

    def pages(
        self,
        operation: Operation[Page[Item]],
        *,
        query: Mapping[str, object] | None = None,
        limit: int | None = None,
        id: str | None = None,
    ) -> list[Item]:
        """The items of a list, all of its pages, or the first `limit` items."""
        if limit is not None and limit < 1:
            raise errors.ConfigurationError(f"limit: found {limit}, expected 1 or more, or None for all")
        items: list[Item] = []
        asked: dict[str, object] = {**(query or {}), "limit": min(limit or PAGE_MAX, PAGE_MAX)}
        while True:
            page = self.call(operation, query=asked, id=id)
            for row in page.get("broken") or []:
                warnings.warn(row["problem"], stacklevel=3)
            items += page["items"]
            cursor = page.get("next_cursor")
            if cursor is None or (limit is not None and len(items) >= limit):
                return items[:limit]
            asked["cursor"] = cursor

    @contextlib.contextmanager
    def opened(
        self,
        operation: Operation[Any],
        *,
        query: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_seconds: float = ANSWER_SECONDS,
        **path: str,
    ) -> Iterator[httpx.Response]:
        """An answer whose body is yet to be read, with any status below 300, and 416.

        Raises `UnreachableError` also when it breaks off while the caller reads.
        """
        request = self._request(operation, path, query, dict(headers or {}), None)
        request.extensions["timeout"]["read"] = silence_seconds
        try:
            answer = self._send(request)
            try:
                if not answer.is_success and answer.status_code != 416:
                    raise self._refusal(answer.status_code, answer.read())
                yield answer
            finally:
                answer.close()
        except httpx.RequestError as error:
            raise self._away(error) from error

    def _request(
        self,
        operation: Operation[Any],
        path: Mapping[str, str],
        query: Mapping[str, object] | None,
        headers: dict[str, str],
        content: bytes | None,
    ) -> httpx.Request:
        given = {key: _text(value) for key, value in (query or {}).items() if value is not None}
        unknown = sorted(set(given) - set(operation.query))
        if unknown:
            raise TypeError(f"{operation.path} has no parameter {unknown[0]!r}; it has {list(operation.query)}")
        for key, value in path.items():
            if value in ("", ".", ".."):  # They would be another address.
                raise errors.ConfigurationError(f"{key}: found {value!r}, expected an id or a name")
        filled = operation.path.format_map({key: quote(value, safe="") for key, value in path.items()})
        return self._http.build_request(
            operation.method, filled.lstrip("/"), params=given or None, headers=headers, content=content
        )

    def _exchange(self, request: httpx.Request) -> bytes:
        """The body of a success; the request is sent again where its answer is lost."""
        pauses = list(PAUSES_SECONDS)
        while True:
            try:
                answer = self._send(request)
                try:
                    body = answer.read()
                finally:
                    answer.close()
            except httpx.RequestError as error:
                # A server that is silent for a minute would be so once more.
                if not pauses or isinstance(error, httpx.TimeoutException):
                    raise self._away(error) from error
                time.sleep(pauses.pop(0))
                continue
            if not answer.is_success:
                raise self._refusal(answer.status_code, body)
            return body

    def _send(self, request: httpx.Request) -> httpx.Response:
        """Sends a request, again when the server asks to wait."""
        waited = 0
        while True:
            answer = self._http.send(request, stream=True)
            seconds = retry_after_seconds(answer.headers.get("retry-after"))
            waited += seconds
            if answer.status_code != 429 or waited > PATIENCE_SECONDS:
                return answer
            answer.close()
            time.sleep(seconds)

    def _refusal(self, status: int, body: bytes) -> errors.SenmonError:
        return errors.of_answer(status, body, base=self.reach.base, has_token=self.reach.token is not None)

    def _away(self, error: httpx.RequestError) -> errors.UnreachableError:
        return errors.UnreachableError(f"no server answers at {self.reach.base}: {str(error) or type(error).__name__}")


def retry_after_seconds(header: str | None) -> int:
    """Seconds of a `Retry-After`, 1 to 60; one where it says nothing that can be read."""
    text = (header or "").strip()
    return min(max(int(text), 1), 60) if text.isascii() and text.isdigit() else 1


def to_json(body: object) -> bytes:
    """JSON of a body; what has none is refused."""
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise errors.ConfigurationError(f"body: found what JSON cannot hold: {error}") from error


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple | set):
        return ",".join(str(item) for item in value)
    return str(value)


def _authorities(ca_file: str | None) -> ssl.SSLContext:
    """The usual authorities, and those of a file."""
    context = httpx.create_ssl_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise errors.ConfigurationError(
                f"ca_file: {ca_file}: {error}; expected a PEM file of certificates"
            ) from error
    return context

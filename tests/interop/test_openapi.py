"""The API description is a valid OpenAPI 3.1 document, and the one that the server serves."""

import json

from openapi_spec_validator import OpenAPIV31SpecValidator
from world import REPOSITORY


def committed():
    return json.loads((REPOSITORY / "server" / "openapi.json").read_text())


def test_the_committed_description_is_valid():
    spec = committed()
    assert spec["openapi"].startswith("3.1")
    errors = list(OpenAPIV31SpecValidator(spec).iter_errors())
    assert not errors, "\n".join(f"{list(error.absolute_path)}: {error.message}"[:300] for error in errors)


def test_it_is_what_the_server_serves(world):
    assert world.get("/openapi.json") == committed()

"""docs/reference/api.md: every operation, from server/openapi.json, and the codes of refusals, from api/error.rs."""

import json
import re
from pathlib import Path

from rust import Source
from text import link, page, table

# What people use first; others follow by name, and what is not for people comes last.
ORDER = ["corpora", "experiments", "branches", "checkpoints", "workers", "jobs", "events", "storage", "set aside", "session", "tokens"]
LAST = "worker protocol"

INTRO = """Everything that the dashboard, `senmon` and the Python package do, they do through this. The machine-readable description is `GET /openapi.json` of a running server ([server/openapi.json](../../server/openapi.json) here), with every field of every answer.

- **Who asks.** `Authorization: Bearer TOKEN` on every request ([tokens and roles](../how-to/tokens-and-roles.md)).
- **Refusals** are `application/problem+json` (RFC 9457): `code` is the stable word for scripts, `detail` the sentence, `faults` every fault with its path, `request_id` what to quote.
- **Lists** come in pages: `limit` (1 to 500, 50 where nothing is said) and `cursor`, the `next_cursor` of the page before.
- **Repeats.** What changes something takes an `Idempotency-Key`: for a day the same key and request do nothing more and get the same answer.
- **Edits.** `GET` gives an `ETag`; `PATCH` with `If-Match` is refused (412) where somebody changed the same fields meanwhile; `If-None-Match` answers 304.
- **Patience.** 429 and 503 say in `Retry-After` how long to wait.

Outside `/api/v1`: `/healthz` and `/readyz` (no token), [`/metrics`](metrics.md) and `/openapi.json` (a token that may read)."""


def text(root: Path) -> str:
    document = json.loads((root / "server/openapi.json").read_text())
    by_tag: dict[str, list] = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            by_tag.setdefault(operation["tags"][0], []).append((path, method, operation))
    tags = sorted(by_tag, key=lambda tag: (tag == LAST, ORDER.index(tag) if tag in ORDER else len(ORDER), tag))
    schemas = document["components"]["schemas"]
    # Defaults that the description does not have.
    source = Source([root / f"server/protocol/src/{name}.rs" for name in ("corpus", "view", "plan")])
    parts, bodies = [INTRO], {}
    for tag in tags:
        rows = [operation_row(*entry, bodies if tag != LAST else {}) for entry in by_tag[tag]]
        parts.append(f"## {tag.capitalize()}")
        if tag == LAST:
            parts.append("What workers say. It changes with the version of the protocol; scripts have no use for it.")
        parts.append(table(["operation", "who may", "parameters", "answer"], rows))
    parts.append("## Bodies")
    for name in bodies:
        parts += [f"### {name}", about(schemas[name]), table(["field", "type", "default", "what it is"], fields(schemas, name, source))]
    parts += ["## Codes of refusals", table(["status", "`code`", "title"], codes(root))]
    return page("API", "server/openapi.json and server/src/api/error.rs", parts)


def operation_row(path: str, method: str, operation: dict, bodies: dict) -> list[str]:
    name = f"`{method.upper()} {path.removeprefix('/api/v1')}`"
    who = re.sub(r"^Who may: (.*)\.$", r"\1", operation.get("description", ""))
    parameters = []
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query" and parameter["name"] not in ("limit", "cursor"):
            parameters.append(f"`{parameter['name']}`: {parameter.get('description', '')}")
    content = operation.get("requestBody", {}).get("content", {})
    for kind in content.values():
        body = kind["schema"]["$ref"].rsplit("/", 1)[1]
        if body == "ExperimentSpec":
            parameters.append("body: [the experiment file](experiment-file.md), JSON or YAML")
        elif bodies is not None and LAST not in operation["tags"]:
            bodies[body] = True
            parameters.append(f"body: {link(body)}")
        else:
            parameters.append(f"body: `{body}`")
        break
    answers = [f"{status}: {answer['description']}" for status, answer in operation["responses"].items() if status < "300" and "description" in answer]
    return [name, who, "<br>".join(parameters), "<br>".join(answers)]


def about(schema: dict) -> str:
    return plain(re.sub(r"\s*\n\s*", " ", schema.get("description", "")))


def plain(words: str) -> str:
    return re.sub(r"\[(`\w+`)\]", r"\1", words)


def fields(schemas: dict, outer: str, source: Source) -> list[list[str]]:
    rows, schema = [], schemas[outer]
    named = {item.name: re.search(r'default = "(\w+)"', item.serde) for item in source.declarations[outer].items} if outer in source.declarations else {}
    for name, value in schema["properties"].items():
        choices = [one for one in value.get("oneOf", [value]) if one.get("type") != "null"]
        inner = choices[0]
        default = value.get("default", inner.get("default"))
        if named.get(name):
            default = json.loads(source.function(named[name][1]).replace("_", ""))
        given = "must be given" if name in schema.get("required", []) else "none" if default is None else f"`{json.dumps(default)}`"
        rows.append([f"`{name}`", type_of(schemas, inner), given, plain(value.get("description", inner.get("description", "")))])
        target = schemas.get(inner.get("$ref", "").rsplit("/", 1)[-1], {})
        if target.get("properties") and inner["$ref"].rsplit("/", 1)[-1] != "ExperimentSpec":
            rows += [[f"`{name}.{row[0].strip('`')}`", *row[1:]] for row in fields(schemas, inner["$ref"].rsplit("/", 1)[-1], source)]
    return rows


def type_of(schemas: dict, value: dict) -> str:
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        target = schemas[name]
        if name == "ExperimentSpec":
            return "[the experiment file](experiment-file.md)"
        if "enum" in target:
            return ", ".join(f"`{word}`" for word in target["enum"])
        if "oneOf" in target and all("enum" in one for one in target["oneOf"]):
            return ", ".join(f"`{one['enum'][0]}`" for one in target["oneOf"])
        return "object" if target.get("properties") else type_of(schemas, target)
    kind = value.get("type", "any")
    kind = [one for one in kind if one != "null"][0] if isinstance(kind, list) else kind
    if kind == "array":
        return f"list of {type_of(schemas, value['items'])}"
    return {"string": "text", "boolean": "true or false"}.get(kind, kind)


def codes(root: Path) -> list[list[str]]:
    source = (root / "server/src/api/error.rs").read_text()
    titles = json.loads((root / "server/protocol/messages/refusals.json").read_text())
    found = re.findall(r'\(StatusCode::(\w+), "(\w+)", said!\("(\w+)"\)\)', source)
    if not found:
        raise SystemExit("reference: api/error.rs names no code")
    from http import HTTPStatus

    alias = {"PAYLOAD_TOO_LARGE": "REQUEST_ENTITY_TOO_LARGE", "RANGE_NOT_SATISFIABLE": "REQUESTED_RANGE_NOT_SATISFIABLE"}
    rows = [[str(int(HTTPStatus[alias.get(status, status)])), f"`{code}`", titles[title]["en"]] for status, code, title in found]
    return sorted(rows)

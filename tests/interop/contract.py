"""Holds types and operations of the Python client against an OpenAPI document: `faults` lists where they differ."""

import types
import typing

ANY_OBJECT = dict[str, typing.Any]


class Contract:
    """An OpenAPI document, and what was found to differ from it."""

    def __init__(self, document):
        self.paths = document["paths"]
        self.schemas = document["components"]["schemas"]
        self.faults = []
        self.seen = set()

    def operation(self, name, operation):
        """Method and path, parameters, body and answer of an operation of the client."""
        described = self.paths.get(f"/api/v1{operation.path}", {}).get(operation.method.lower())
        if described is None:
            return self.faults.append(f"{name}: the document has no {operation.method} {operation.path}")
        parameters = described.get("parameters", [])
        there = {p["name"] for p in parameters if p["in"] == "query"}
        for parameter in set(operation.query) - there:
            self.faults.append(f"{name}: the document has no parameter {parameter!r}; it has {sorted(there)}")
        for parameter in parameters:
            if parameter["in"] == "query" and parameter.get("required") and parameter["name"] not in operation.query:
                self.faults.append(f"{name}: the document asks for the parameter {parameter['name']!r}")
            if parameter["in"] == "path" and "{" + parameter["name"] + "}" not in operation.path:
                self.faults.append(f"{name}: the path has no {parameter['name']!r}")
        takes_key = any(p["name"] == "Idempotency-Key" and p["in"] == "header" for p in parameters)
        if takes_key != operation.keyed:
            self.faults.append(f"{name}: Idempotency-Key: found {operation.keyed}, the document says {takes_key}")
        self.body(name, operation, described)
        self.answer(name, operation, described)

    def body(self, name, operation, described):
        content = described.get("requestBody", {}).get("content", {})
        if (operation.body is None) != (not content):
            return self.faults.append(f"{name}: body: found {operation.body}, the document has {list(content)}")
        for schema in (kind["schema"] for kind in content.values()):
            self.fits(f"{name} body", operation.body, schema)

    def answer(self, name, operation, described):
        successes = [answer for status, answer in described["responses"].items() if status.startswith("2")]
        for kind, content in ((k, c) for answer in successes for k, c in answer.get("content", {}).items()):
            if operation.answer in (str, bytes):
                if kind == "application/json":
                    self.faults.append(f"{name}: answer: found {operation.answer}, the document has JSON")
            elif kind == "application/json":
                self.fits(f"{name} answer", operation.answer, content["schema"])
            else:
                self.faults.append(f"{name}: answer: found {operation.answer}, the document has {kind}")

    def fits(self, where, kind, schema):
        """Whether a type of Python is what a schema says."""
        schema, called = self.resolved(schema)
        kinds = flat(kind)
        accepted = self.alternatives(schema)
        if (type(None) in kinds) != any(s.get("type") == "null" for s in accepted):
            self.faults.append(f"{where}: None: found {kind}, the document has {schema}")
        accepted = [s for s in accepted if s.get("type") != "null"]
        kinds = [k for k in kinds if k is not type(None)]
        if len(kinds) == 1:
            for one in accepted:
                self.one(where, kinds[0], *self.resolved(one, called))
        elif len(accepted) == 1 or not all(any(plain(k) == plain_schema(s) for s in accepted) for k in kinds):
            self.faults.append(f"{where}: found {kind}, the document has {schema}")

    def one(self, where, kind, schema, called):
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if kind in (ANY_OBJECT, typing.Any):
            if kind is not typing.Any and plain_schema(schema) != "object":
                self.faults.append(f"{where}: found an object, the document has {schema}")
        elif typing.is_typeddict(origin or kind):
            self.typed_dict(where, kind, schema, called)
        elif origin is typing.Literal:
            if set(arguments) != set(schema.get("enum", [])):
                self.faults.append(f"{where}: found {sorted(arguments)}, the document has {schema.get('enum')}")
        elif origin is list:
            if plain_schema(schema) != "array":
                return self.faults.append(f"{where}: found a list, the document has {schema}")
            self.fits(f"{where}[]", arguments[0], schema["items"])
        elif origin is dict:
            self.fits(f"{where}.*", arguments[1], schema.get("additionalProperties", {}))
        elif plain(kind) != plain_schema(schema):
            self.faults.append(f"{where}: found {kind}, the document has {schema}")

    def typed_dict(self, where, kind, schema, called):
        origin = typing.get_origin(kind) or kind
        items = typing.get_args(kind)
        expected = f"Page_{items[0].__name__}" if items else origin.__name__
        if called != expected:
            self.faults.append(f"{where}: found {expected}, the document has {called}")
        if expected in self.seen:
            return
        self.seen.add(expected)
        properties, required = self.properties(schema)
        fields = typing.get_type_hints(origin, include_extras=False)
        for field, field_kind in fields.items():
            if items and typing.get_origin(field_kind) is list and isinstance(typing.get_args(field_kind)[0], typing.TypeVar):
                self.items(f"{expected}.{field}", items[0], properties[field]["items"])
            elif field not in properties:
                self.faults.append(f"{expected}: the document has no {field!r}")
            else:
                self.fits(f"{expected}.{field}", field_kind, properties[field])
            if field in properties and (field in required) != (field in origin.__required_keys__):
                self.faults.append(f"{expected}.{field}: required: the document says {field in required}")
        for field in required - set(fields):
            self.faults.append(f"{expected}: the document always has {field!r}, the type does not")

    def items(self, where, kind, schema):
        """Items of a page stand in the document once more, without their name: the same fields are expected."""
        named = self.schemas[kind.__name__]
        if self.properties(schema)[0].keys() != self.properties(named)[0].keys():
            self.faults.append(f"{where}: the items are no {kind.__name__}")
        self.fits(where, kind, {"$ref": f"#/components/schemas/{kind.__name__}"})

    def properties(self, schema):
        """All properties of an object, and the names of those that are always there."""
        schema, _ = self.resolved(schema)
        properties, required = dict(schema.get("properties", {})), set(schema.get("required", []))
        for part in schema.get("allOf", []):
            more, always = self.properties(part)
            properties |= more
            required |= always
        return properties, required

    def resolved(self, schema, called=None):
        while "$ref" in schema:
            called = schema["$ref"].rsplit("/", 1)[1]
            schema = self.schemas[called]
        return schema, called

    def alternatives(self, schema):
        if "oneOf" in schema and "properties" not in schema:
            return schema["oneOf"]
        if isinstance(schema.get("type"), list):
            return [schema | {"type": one} for one in schema["type"]]
        return [schema]


def flat(kind):
    """The members of a union."""
    return list(typing.get_args(kind)) if isinstance(kind, types.UnionType) else [kind]


def plain(kind):
    """JSON's word for a type."""
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(kind, "object")


def plain_schema(schema):
    """JSON's word for a schema."""
    if "type" in schema:
        return schema["type"]
    return "object" if any(key in schema for key in ("properties", "allOf", "oneOf")) else "anything"

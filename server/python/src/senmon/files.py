"""Experiment files: sent to the server as they are, which names every mistake; read here only to ask for a plan."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from senmon import errors, transport
from senmon.types import ExperimentSpec

KINDS = {".yaml": "application/yaml", ".yml": "application/yaml", ".json": "application/json"}

Experiment = Mapping[str, Any] | ExperimentSpec | str | os.PathLike[str]
"""What can be submitted: a dict, or the path of a YAML or JSON file."""


def as_body(experiment: Experiment) -> tuple[bytes, str]:
    """Bytes to send, and their content type. A file's bytes are not looked at."""
    if isinstance(experiment, Mapping):
        return transport.to_json(experiment), "application/json"
    return _read(experiment)


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as a dict; a YAML file is read with PyYAML, as YAML 1.2 as the server reads it."""
    if isinstance(experiment, Mapping):
        return dict(experiment)
    content, kind = _read(experiment)
    path = os.fspath(experiment)
    try:
        found = json.loads(content) if kind == "application/json" else _yaml(content)
    except ValueError as error:
        raise errors.ConfigurationError(f"{path}: {error}") from error
    if not isinstance(found, dict):
        raise errors.ConfigurationError(
            f"{path}: found {type(found).__name__}, expected a mapping of an experiment's keys"
        )
    return found


def _read(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    kind = KINDS.get(Path(path).suffix.lower())
    if kind is None:
        accepted = ", ".join(KINDS)
        raise errors.ConfigurationError(
            f"experiment: found {os.fspath(path)!r}, expected a dict or a file that ends in {accepted}"
        )
    try:
        return Path(path).read_bytes(), kind
    except OSError as error:
        raise errors.ConfigurationError(f"experiment: read {os.fspath(path)}: {error.strerror or error}") from error


def _yaml(content: bytes) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise errors.MissingPackageError(
            "a plan of a YAML file needs PyYAML: pip install 'senmon[yaml]'; or give a dict or a JSON file"
        ) from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML 1.2's words and numbers: `1e-6` is a number, `on` and `12:30` are texts."""

        yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, Any]]]] = {}

    def construct_int(loader: Any, node: Any) -> int:
        return int(loader.construct_scalar(node), 0)

    def construct_float(loader: Any, node: Any) -> float:
        return float(loader.construct_scalar(node))

    def construct_mapping(loader: Any, node: Any) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                line = node.start_mark.line + 1
                raise ValueError(f"found the key {key!r} twice in the mapping at line {line}, expected it once")
        return dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in node.value), strict=True))

    for tag, pattern, first in YAML_WORDS:
        Loader.add_implicit_resolver(tag, re.compile(pattern), list(first))
    Loader.add_constructor("tag:yaml.org,2002:int", construct_int)
    Loader.add_constructor("tag:yaml.org,2002:float", construct_float)
    Loader.add_constructor("tag:yaml.org,2002:map", construct_mapping)
    try:
        return yaml.load(content, Loader)
    except (yaml.YAMLError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error


FLOAT = r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
YAML_WORDS = (
    ("tag:yaml.org,2002:bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("tag:yaml.org,2002:null", r"^(?:~|null|Null|NULL|)$", ("~", "n", "N", "")),
    ("tag:yaml.org,2002:int", r"^(?:[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("tag:yaml.org,2002:float", FLOAT, "-+0123456789."),
)
"""The core schema's plain scalars (YAML 1.2.2, section 10.3), the finite ones."""

"""JSON of the command line against docs/schema, more strictly than a user would check it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from referencing import Registry, Resource

DIRECTORY = Path(__file__).resolve().parents[2] / "docs/schema"


def validate_strictly(document: object, verb: str) -> None:
    """The published schemas allow fields that a later release adds; what we write today must all be described."""
    schemas = {path.name: _strict(json.loads(path.read_text())) for path in DIRECTORY.glob("*.schema.json")}
    registry = Registry().with_resources([(name, Resource.from_contents(schema)) for name, schema in schemas.items()])
    validator = jsonschema.Draft202012Validator(
        schemas[f"{verb}.schema.json"], registry=registry, format_checker=jsonschema.FormatChecker()
    )
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)] == []


def _strict(schema: object) -> object:
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _strict(each) for key, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        result["additionalProperties"] = False
    return result

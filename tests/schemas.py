"""Results against the schemas that are published, closed: a key that is printed must be described."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from resprune.report.schemas import schema


def closed(own: Any) -> Any:
    """Return a schema whose objects may have no other keys than those they name."""
    if isinstance(own, list):
        return [closed(value) for value in own]
    if not isinstance(own, dict):
        return own
    found = {key: closed(value) for key, value in own.items()}
    # An object that is called "properties" would be one of a key; there is none.
    return found | {"additionalProperties": False} if "properties" in own else found


def assert_valid(result: dict[str, Any]) -> None:
    """Check a result against the schema that it names."""
    _, command, version = result["schema"].split("/")
    assert version == "1"
    validator = Draft202012Validator(closed(schema(command)))
    problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(result)]
    assert not problems, "\n".join(problems)

"""JSON Schemas (draft 2020-12) of what commands print with ``--json``.

Keys are only ever added, so a schema admits others than it names; the tests close it, and a key that is printed
and not described here fails them.
"""

from __future__ import annotations

import json

from resprune.errors import UsageError
from resprune.report.schemas.commands import COMMANDS
from resprune.report.schemas.parts import PARTS
from resprune.report.schemas.words import TEXT, Schema, record, ref

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_WITHOUT_NETWORK = ("env", "families")


def schema(command: str) -> Schema:
    """Return the schema of what a command prints, complete in itself.

    Raises:
        UsageError: where the command has none.
    """
    if command not in COMMANDS:
        raise UsageError(f"no command {command!r} that prints JSON", hint=f"use {', '.join(COMMANDS)}")
    title, body = COMMANDS[command]
    head = {"schema": {"const": f"resprune/{command}/1"}, "version": TEXT}
    if command not in _WITHOUT_NETWORK:
        head |= {"checkpoint": ref("network"), "made?": ref("made")}
    whole = record({**head, **body}, title)
    parts: Schema = {}
    waiting = [whole]
    while waiting:
        text = json.dumps(waiting.pop())
        for name in PARTS.keys() - parts.keys():
            if f'"#/$defs/{name}"' in text:
                parts[name] = PARTS[name]
                waiting.append(PARTS[name])
    return {"$schema": DRAFT, **whole, "$defs": dict(sorted(parts.items()))}

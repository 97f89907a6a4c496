"""Writes the JSON Schemas of what `--report out.json` and `maskc sweep` write, from its classes: maskc/report/schema.

Run `python docs/report_schema.py` after a change of them; `make lint` compares the files with what this would write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from maskc.pruning.sweeps import record
from maskc.results.document import SCHEMA, Document

DIRECTORY = Path(__file__).parents[1] / "maskc" / "report" / "schema"
FILE = DIRECTORY / f"report-{SCHEMA}.json"
SWEEP_FILE = DIRECTORY / f"sweep-{record.SCHEMA}.json"


class _Generator(GenerateJsonSchema):
    """Floats may be null, as JSON has no infinity, and keys need no title of their own."""

    def float_schema(self, schema: Any) -> JsonSchemaValue:
        return {"type": ["number", "null"]}

    def nullable_schema(self, schema: Any) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        null: JsonSchemaValue = {"type": "null"}
        return inner if "null" in inner.get("type", ()) else self.get_flattened_anyof([inner, null])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema(kind: Any = Document, name: str = "report", version: int = SCHEMA) -> dict[str, Any]:
    """The schema of a report, or of a sweep: every key that is written is required, and others may come."""
    made = TypeAdapter(kind).json_schema(mode="serialization", schema_generator=_Generator)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:maskc:{name}:{version}",
        "title": f"{name.capitalize()} of maskc, version {version}",
    }
    for definition in (made, *made["$defs"].values()):
        definition["description"] = " ".join(definition["description"].replace("`", "").split())
        definition["required"] = list(definition["properties"])
    for item in made["properties"].values():
        item.pop("default", None)  # all are written
    made["properties"]["schema"] = {"const": version}
    return head | {key: made[key] for key in made if key != "title"}


def text() -> str:
    """The text of the file."""
    return json.dumps(schema(), indent=2) + "\n"


def sweep_text() -> str:
    """The text of the file for sweeps."""
    return json.dumps(schema(record.Record, "sweep", record.SCHEMA), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
    SWEEP_FILE.write_text(sweep_text())

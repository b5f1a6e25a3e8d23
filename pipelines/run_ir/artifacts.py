"""What tasks hand to each other, in the form of the executor input, and a resolver's look at earlier runs."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

RuntimeArtifact = dict[str, Any]

_NAME = "projects/0/locations/local/metadataStores/default/artifacts/{}"
_METADATA_OF_INPUT = re.compile(r"\{\{\$\.inputs\.artifacts\['(?P<key>[^']+)'\]\.metadata\['(?P<name>[^']+)'\]\}\}")
_TERM = re.compile(r'(?P<field>[\w.]+)=(?P<value>"[^"]*"|[^\s]+)')


def new_artifact(schema: Mapping[str, Any], uri: str, metadata: Mapping[str, Any] | None = None) -> RuntimeArtifact:
    """An artifact that a task is about to write."""
    return {
        "name": _NAME.format(uuid.uuid4().int >> 65),
        "uri": uri,
        "type": dict(schema),
        "metadata": dict(metadata or {}),
    }


def title_of(artifact: RuntimeArtifact) -> str:
    """The artifact's type, such as `tfx.Model`."""
    kind = artifact["type"]
    return str(kind.get("schemaTitle") or yaml.safe_load(kind["instanceSchema"])["title"])


class ArtifactStore:
    """The artifacts of all runs below one root, oldest first: what Kubeflow keeps in its metadata store.

    Args:
        file: Where they are kept.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._earlier: list[RuntimeArtifact] = json.loads(file.read_text()) if file.exists() else []
        self._new: list[RuntimeArtifact] = []

    def add(self, artifacts: list[RuntimeArtifact]) -> None:
        """Adds what a task has written."""
        self._new += artifacts
        self._file.write_text(json.dumps([*self._earlier, *self._new], indent=1))

    def newest(self, query: str, inputs: Mapping[str, list[RuntimeArtifact]]) -> RuntimeArtifact | None:
        """The newest artifact of an earlier run that a resolver's filter matches.

        None if none does, or its input found none.

        Raises:
            ValueError: The filter has a term that the compiler does not write.
        """
        for match in _METADATA_OF_INPUT.finditer(query):
            found = inputs.get(match["key"]) or [{"metadata": {}}]
            value = found[0]["metadata"].get(match["name"])
            if value is None:
                return None
            query = query.replace(match[0], str(value))
        terms = [self._term(text) for text in query.split(" AND ")]
        return next((a for a in reversed(self._earlier) if all(_matches(a, f, v) for f, v in terms)), None)

    @staticmethod
    def _term(text: str) -> tuple[str, str]:
        term = _TERM.fullmatch(text.strip())
        if term is None:
            raise ValueError(f"The resolver's filter holds {text!r}, which is no comparison of a field with a value.")
        return term["field"], term["value"].strip('"')


def _matches(artifact: RuntimeArtifact, field: str, value: str) -> bool:
    if field == "state":
        return value == "LIVE"  # nothing is ever removed here
    if field == "schema_title":
        return title_of(artifact) == value
    if field == "name":
        return bool(artifact["name"] == value)
    parts = field.split(".")
    if len(parts) == 3 and parts[0] == "metadata" and parts[2] == "number_value":
        found = artifact["metadata"].get(parts[1])
        return isinstance(found, (int, float)) and float(found) == float(value)
    raise ValueError(f"The resolver's filter asks for {field}, which is not known here.")

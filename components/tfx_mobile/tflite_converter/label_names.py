"""Names of the classes, as far as the artifacts around a model know them.

The order of the names is the order of the model's output, so a source counts only if it says which number a name has.
Transform's vocabulary does: it is what maps names to numbers. A string domain in the schema is a plain list; it counts
only if the pipeline's author says that the model follows it.
"""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from tfx_mobile.errors import RecipeError


def from_vocabulary(text: bytes) -> tuple[str, ...]:
    """The entries of a text vocabulary that Transform wrote: one per line, by number.

    Raises:
        RecipeError: An entry is no UTF-8 text.
    """
    try:
        return tuple(line.decode() for line in text.splitlines())
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"Transform's vocabulary of the label is not UTF-8 text ({error}). Give MetadataSpec(labels=...) instead."
        ) from None


def from_schema(pbtxt: bytes, feature: str) -> tuple[str, ...]:
    """The values of a feature's string domain, in the schema's order; empty if it has none.

    Args:
        pbtxt: A `schema.pbtxt`.
        feature: Name of the feature.

    Raises:
        RecipeError: The schema cannot be read, or lacks the domain that the feature refers to.
    """
    try:
        schema = text_format.Parse(pbtxt, schema_pb2.Schema())
    except text_format.ParseError as error:
        raise RecipeError(f"The schema is no text-format Schema message: {error}.") from None
    domains = {domain.name: domain for domain in schema.string_domain}
    for candidate in schema.feature:
        if candidate.name != feature:
            continue
        match candidate.WhichOneof("domain_info"):
            case "string_domain":
                return tuple(candidate.string_domain.value)
            case "domain" if candidate.domain in domains:
                return tuple(domains[candidate.domain].value)
            case "domain":
                raise RecipeError(f"The schema's feature {feature!r} refers to a missing domain {candidate.domain!r}.")
    return ()

"""The model that phones run today, as a second baseline."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError, field_validator

from tfx_mobile.release_store.destinations import Destination, parse_destination
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, check_channel, check_model_name
from tfx_mobile.validation import problems_in


class ProductionModel(BaseModel):
    """Where to find the model that phones run today, which a new release must not be worse than.

    Its bytes are resolved through the channel and verified by hash when the component runs; the change thresholds of
    the EvalConfig then also hold against it. While nothing was released there is nothing to compare with.

    Attributes:
        destination: The release store, such as `FilesystemDestination(base_directory=...)`.
        model_name: Name the model is published under, as in MobilePusher.
        channel: The release channel.
        if_not_comparable: What happens when the released model cannot be run on today's examples or returns something
            else: `block` blesses nothing, `skip` goes on without it. Either is recorded.

    Raises:
        ValueError: A value is not valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    destination: SerializeAsAny[Destination]
    model_name: str
    channel: str = DEFAULT_CHANNEL
    if_not_comparable: Literal["block", "skip"] = "block"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(
                f"Invalid ProductionModel: {problems_in(error)}. Write ProductionModel("
                "destination=FilesystemDestination(base_directory='/path/of/a/folder'), model_name='digits', "
                "channel='production')."
            ) from None

    @field_validator("destination", mode="before")
    @classmethod
    def _parse_destination(cls, value: object) -> Destination:
        return parse_destination(value)

    @field_validator("model_name")
    @classmethod
    def _check_model_name(cls, value: str) -> str:
        return check_model_name(value)

    @field_validator("channel")
    @classmethod
    def _check_channel(cls, value: str) -> str:
        return check_channel(value)

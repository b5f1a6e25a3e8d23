"""What all destinations have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tfx_mobile.secrets_check import refuse_secrets
from tfx_mobile.validation import problems_in

if TYPE_CHECKING:
    from tfx_mobile.release_store.signing import Keyring
    from tfx_mobile.release_store.store import Follower, Store


class Destination(BaseModel):
    """Where to publish, as data: frozen, validated, JSON in and out, because it travels through a compiled pipeline.

    It holds addresses and limits, never secrets. Whoever runs the push finds its credentials in its surroundings.

    Attributes:
        type: Tells destinations apart in JSON.

    Raises:
        ValueError: A value is not valid.
        SecretParameterError: A ValueError. One looks like a secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str

    #: How to write one, for messages.
    example: ClassVar[str]

    def __init__(self, **values: Any) -> None:
        refuse_secrets({type(self).__name__: values})  # before a message repeats one
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(f"Invalid {type(self).__name__}: {problems_in(error)}. Write {self.example}.") from None

    @property
    def size_limit(self) -> int | None:
        """The largest file it takes, in bytes; None if there is no limit worth checking."""
        return None

    @property
    @abstractmethod
    def place(self) -> str:
        """Equal for two destinations that would write the same objects, so that one is not given twice."""

    def check_names(self, model_name: str, channel: str) -> None:
        """Raises a ValueError if the destination cannot use names that are valid elsewhere."""

    @abstractmethod
    def open_store(self) -> Store:
        """The release store at this destination; nothing is read or created yet."""

    def open_follower(self, store: Store, keyring: Keyring) -> Follower | None:
        """The service that follows this store's channels; None if devices read the store itself."""
        del store, keyring
        return None

"""What a part of a pipeline may depend on, written so that every runner reads the same."""

from __future__ import annotations

from typing import Any

from tfx.types.channel import BaseChannel, ChannelWrappedPlaceholder
from tfx.types.standard_artifacts import InfraBlessing, ModelBlessing

from tfx_mobile.artifacts import BLESSED, TFLiteBlessing

# Each is written with the property on both outcomes: what Kubeflow makes of a missing one is not known.
_BLESSINGS = (TFLiteBlessing, ModelBlessing, InfraBlessing)


def blessed(blessing: BaseChannel) -> Any:
    """Whether a blessing says yes, as the predicate of TFX's `Cond`.

        with Cond(blessed(evaluator.outputs["blessing"])):
            pusher = MobilePusher(...)

    TFX's own spelling, `channel.future()[0].custom_property("blessed") == 1`, is the same on LocalDagRunner. Compiled
    for Kubeflow and Vertex it asks for an input `_<component>.blessing`, which a component that is wired to the channel
    anyway does not have: the compiler calls it by the name of the component's own input. This one names no input, and
    the compilers of all runners fill in theirs.

    Args:
        blessing: Output channel of a component: TFLiteBlessing, or the stock ModelBlessing or InfraBlessing.

    Returns:
        A TFX predicate.

    Raises:
        ValueError: It is no channel of a blessing.
    """
    if not isinstance(blessing, BaseChannel) or blessing.type not in _BLESSINGS:
        given = f"a channel of {blessing.type.TYPE_NAME}" if isinstance(blessing, BaseChannel) else repr(blessing)
        raise ValueError(
            f"blessed() was given {given}; it takes a channel of {', '.join(t.TYPE_NAME for t in _BLESSINGS)}, such as "
            "evaluator.outputs['blessing']."
        )
    return ChannelWrappedPlaceholder(blessing)[0].custom_property(BLESSED) == 1

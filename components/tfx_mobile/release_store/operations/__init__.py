"""What people and scheduled jobs do with releases that are there: look, go back, promote, keep, delete.

    listing       what a store holds and what its channels name
    finding       a release by what a person types
    moving        rollback and promote: the channel names another release; nothing is uploaded
    keeping       pin and unpin: what is never pruned, and what may be published again
    pruning       deleting what nobody needs, announced in the channels first
    everywhere    the same act at several destinations

Each act is one `channel.move_channel`, or for prune two around the deletions. So it can be repeated and killed at any
moment, and none gets between another act's decision and its write unnoticed.
"""

from tfx_mobile.release_store.operations.everywhere import promote_everywhere, rollback_everywhere
from tfx_mobile.release_store.operations.keeping import pin, unpin
from tfx_mobile.release_store.operations.listing import list_models, list_releases
from tfx_mobile.release_store.operations.moving import promote, rollback
from tfx_mobile.release_store.operations.pruning import models_to_prune, prune

__all__ = [
    "list_models",
    "list_releases",
    "models_to_prune",
    "pin",
    "promote",
    "promote_everywhere",
    "prune",
    "rollback",
    "rollback_everywhere",
    "unpin",
]

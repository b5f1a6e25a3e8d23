"""The lineage that a release's manifest repeats, for where ML Metadata cannot be reached."""

from __future__ import annotations

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.records import TracedRelease
from tfx_mobile.release_store.names import check_model_name
from tfx_mobile.release_store.reading import read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring
from tfx_mobile.release_store.store import Store

_PREFIX = "releases/"
_SUFFIX = ".json"


def trace_releases(
    store: Store, target: str, model_name: str | None = None, keyring: Keyring = NO_KEYS
) -> tuple[tuple[TracedRelease, ...], tuple[str, ...]]:
    """The releases of some bytes, and what could not be read on the way, in words.

    A manifest that is damaged, or not signed by a trusted key, is a problem and no release: one bad file must not hide
    the others.

    Args:
        store: The release store.
        target: SHA-256 of the bytes, or the id of a release.
        model_name: Look at this model's releases only; None for all.
        keyring: Whose signature to require.

    Raises:
        ValueError: The model's name is not valid.
        DestinationUnavailableError: The store cannot be listed.
    """
    prefix = _PREFIX if model_name is None else f"{_PREFIX}{check_model_name(model_name)}/"
    releases, problems = [], []
    for path in sorted(found.path for found in store.list(prefix)):
        model, _, name = path.removeprefix(_PREFIX).partition("/")
        if not name.endswith(_SUFFIX):
            continue
        release_id = name.removesuffix(_SUFFIX)
        try:
            manifest = read_manifest(store, model, release_id, keyring)
        except TFXMobileError as error:
            problems.append(str(error))
            continue
        if target in (release_id, manifest.file.sha256):
            releases.append(
                TracedRelease(
                    destination=store.address,
                    release_id=release_id,
                    manifest_uri=store.uri(path),
                    manifest=manifest,
                    verified=keyring.trusted is not None,
                )
            )
    return tuple(releases), tuple(problems)

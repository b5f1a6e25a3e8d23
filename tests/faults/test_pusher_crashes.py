"""A pusher that is killed at any moment and run again ends in exactly one consistent release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of, read_statement, tree
from tests.faults.crashing import kill_at_every_line
from tfx_mobile.errors import DestinationUnavailableError
from tfx_mobile.records import Envelope, ReleaseManifest
from tfx_mobile.release_store import channel as channels
from tfx_mobile.release_store import filesystem_store, publishing
from tfx_mobile.release_store.destinations import FilesystemDestination, destinations_to_json
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import MANIFEST_TYPE, resolve

OLD, NEW = model_bytes(1), model_bytes(2)


def push_new(root: Path) -> str:
    return publish(FilesystemStore(str(root)), push_of(NEW)).status


def push_old(root: Path) -> None:
    publish(FilesystemStore(str(root)), push_of(OLD))


def push_nothing(root: Path) -> None:
    pass


@pytest.mark.parametrize("prepare", [push_nothing, push_old])
def test_killed_between_any_two_lines(tmp_path: Path, prepare: Any) -> None:
    before = (OLD,) if prepare is push_old else ()
    killed = kill_at_every_line(
        [channels.__file__, publishing.__file__, filesystem_store.__file__], tmp_path, push_new, prepare
    )
    assert len(killed) > 200
    intact = tree(killed[-1])
    channel = f"channels/{MODEL}/{CHANNEL}.json"
    reruns, leftovers = set(), set()

    for root in killed:
        store = FilesystemStore(str(root))
        leftovers.add(frozenset(name.split("/")[0] for name in tree(root) if filesystem_store.TEMPORARY_PREFIX in name))

        # Nothing refers to what is not there.
        for manifest in root.glob("releases/*/*.json"):
            payload = Envelope.read(manifest).open(MANIFEST_TYPE)
            assert (root / ReleaseManifest.from_json(payload).blob).read_bytes() in (*before, NEW)

        # What a device sees meanwhile: the release before, or the new one; never anything in between.
        try:
            assert resolve(store, MODEL, CHANNEL).model in (*before, NEW)
        except DestinationUnavailableError:
            assert not before

        reruns.add(push_new(root))
        release = resolve(store, MODEL, CHANNEL)
        assert (release.model, release.channel_version) == (NEW, len(before) + 1)
        statement = read_statement(root / channel)
        assert [e.release_id for e in statement.history] == [release_id_of(manifest_of(d)) for d in (NEW, *before)]
        files = tree(root)
        assert set(files) == set(intact)
        assert all(files[name] == intact[name] for name in files if name != channel)

    assert reruns == {"pushed", "unchanged"}
    assert leftovers == {frozenset(), *(frozenset({role}) for role in ("blobs", "releases", "channels"))}


PLACES = ("one", "two")


def run_component(folder: Path) -> Any:
    """One run of the component; as under TFX, each attempt has an output folder of its own."""
    from tests.component import pusher_artifacts as given
    from tfx_mobile.mobile_pusher.executor import Executor

    attempt = len(list(folder.glob("attempt*")))
    pushed = given.pushed_artifact(folder / f"attempt {attempt}" / "pushed")
    destinations = [FilesystemDestination(base_directory=folder / name) for name in PLACES]
    Executor().Do(
        given.inputs_of(folder / f"attempt {attempt}" / "inputs", NEW),
        {"pushed_model": [pushed]},
        {"model_name": MODEL, "destinations": destinations_to_json(destinations)},
    )
    return pushed


def import_executor(folder: Path) -> None:
    import tfx_mobile.mobile_pusher.executor  # noqa: F401 (once, before the forks)


def test_the_component_killed_between_any_two_lines(tmp_path: Path) -> None:
    from tfx_mobile.mobile_pusher import executor
    from tfx_mobile.release_store import delivery

    writing = ("Do", "deliver", "stage", "_publish", "_archive", "_describe", "_describe_release")
    files = [executor.__file__, delivery.__file__, publishing.__file__]
    killed = kill_at_every_line(files, tmp_path, run_component, import_executor, writing)
    assert len(killed) > 100
    states = set()
    for folder in killed:
        before = [(folder / name / "channels" / MODEL / f"{CHANNEL}.json").exists() for name in PLACES]
        bytes_of = [bool(list((folder / name).glob("releases/*/*.json"))) for name in PLACES]
        states.add((sum(bytes_of), sum(before)))
        # Channels move only where, and when, all the bytes are everywhere.
        assert not any(before) or all(bytes_of)
        pushed = run_component(folder)
        receipts = json.loads(pushed.get_string_custom_property("destinations"))
        assert [receipt["status"] == "unchanged" for receipt in receipts] == before
        assert pushed.get_int_custom_property("pushed") == 1
        assert pushed.get_string_custom_property("channel_version") == "1"
        for name in PLACES:
            release = resolve(FilesystemStore(str(folder / name)), MODEL, CHANNEL)
            assert (release.model, release.channel_version) == (NEW, 1)
            assert len(tree(folder / name)) == 3
    assert {(released, 0) for released in range(3)} | {(2, moved) for moved in range(3)} <= states

"""The policies of docs/object_stores allow what a push and a deletion do, and nothing that would harm a release."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.http_server import Request
from tests.fakes.object_store import BUCKET, PREFIX, S3Server, serving
from tests.fakes.releases import MODEL, model_bytes, push_of
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.names import blob_path, channel_path, release_path
from tfx_mobile.release_store.publishing import publish

pytest.importorskip("obstore", reason="needs the extra: pip install 'tfx-mobile[object-store]'")

FOLDER = Path(__file__).parents[2] / "docs" / "object_stores"
ACTIONS = {"GET": "s3:GetObject", "HEAD": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}


def allows(policy: str, action: str, path: str, *, if_none_match: bool = False) -> bool:
    """Whether a policy allows an action on an object of the store; a refusal wins."""
    arn = f"arn:aws:s3:::my-bucket/models/{path}" if path else "arn:aws:s3:::my-bucket"
    effects = {
        s["Effect"]
        for s in json.loads((FOLDER / policy).read_text())["Statement"]
        if applies(s, action, arn, if_none_match)
    }
    return effects == {"Allow"}


def applies(statement: dict[str, Any], action: str, arn: str, if_none_match: bool) -> bool:
    actions, resources = (
        [value] if isinstance(value, str) else value for value in (statement["Action"], statement["Resource"])
    )
    condition = statement.get("Condition", {"Null": {"s3:if-none-match": str(not if_none_match).lower()}})
    return (
        action in actions
        and any(fnmatch.fnmatchcase(arn, resource) for resource in resources)
        and condition == {"Null": {"s3:if-none-match": str(not if_none_match).lower()}}
    )


def allows_request(policy: str, request: Request) -> bool:
    path = request.path.removeprefix(f"/{BUCKET}").removeprefix(f"/{PREFIX}/")
    action = "s3:ListBucket" if not path else ACTIONS[request.method]
    return allows(policy, action, path, if_none_match="if-none-match" in request.headers)


def test_each_identity_may_do_its_work_and_no_more() -> None:
    with serving(S3Server) as server:
        store = server.open_store()
        for seed in (1, 2, 2):
            publish(store, push_of(model_bytes(seed)))
        pushing = list(server.requests)
        assert all(allows_request("s3-pusher.json", request) for request in pushing)

        blob = blob_path(MODEL, sha256_of(model_bytes(1)))
        channel = store.read(channel_path(MODEL, "production"))
        assert channel is not None
        fresh = server.open_store()
        assert fresh.compare_and_swap(channel_path(MODEL, "production"), channel.data + b" ", channel.generation)
        (old,) = [info for info in fresh.list(f"blobs/{MODEL}/") if info.path == blob]
        assert fresh.delete(blob, old.generation)
        pruning = server.requests[len(pushing) :]
        assert {"GET", "HEAD", "PUT", "DELETE"} == {request.method for request in pruning}
        assert all(allows_request("s3-retention.json", request) for request in pruning)
        assert not all(allows_request("s3-pusher.json", request) for request in pruning)
        assert not all(allows_request("s3-retention.json", request) for request in pushing)


@pytest.mark.parametrize("path", [blob_path(MODEL, "0" * 64), release_path(MODEL, "0" * 64)])
def test_no_identity_may_overwrite_what_was_released(path: str) -> None:
    assert allows("s3-pusher.json", "s3:PutObject", path, if_none_match=True)
    assert not allows("s3-pusher.json", "s3:PutObject", path)
    assert not allows("s3-pusher.json", "s3:DeleteObject", path)
    assert not allows("s3-retention.json", "s3:PutObject", path)
    assert not allows("s3-retention.json", "s3:DeleteObject", channel_path(MODEL, "production"))


def test_the_role_of_azure_deletes_nothing() -> None:
    role = json.loads((FOLDER / "azure-pusher-role.json").read_text())
    assert {action.rpartition("/")[2] for action in role["DataActions"]} == {"read", "write"}
    assert role["Actions"] == []

"""Firebase's own Admin SDK works against the fake of Firebase ML, which shows that the fake is like the service."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tests.fakes.firebase_ml", reason="the fakes are in the checkout only")

from tests.fakes.firebase_ml import BUCKET, PROJECT, FakeFirebaseML
from tests.fakes.firebase_ml_description import PYTHON
from tests.fakes.firebase_project import EMAIL, private_key, service_account_info
from tests.fakes.releases import model_bytes
from tfx_mobile.records import sha256_of

PROGRAM = Path(__file__).resolve().parents[1] / "fakes" / "firebase_admin_program.py"
FILES = {"one.tflite": model_bytes(1), "two.tflite": model_bytes(2), "bad.tflite": b"no flatbuffer at all"}


def run_admin(fake: FakeFirebaseML) -> dict[str, Any]:
    given = {
        "endpoint": fake.endpoint,
        "project": PROJECT,
        "bucket": BUCKET,
        "service_account": service_account_info(),
    }
    surroundings = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [str(PYTHON), "-I", str(PROGRAM)],
        input=json.dumps(given),
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.skipif(not PYTHON.is_file(), reason="firebase_admin is not there; `make setup` brings it")
@pytest.mark.parametrize("polls", [0, 2])
def test_the_genuine_sdk_creates_publishes_updates_lists_and_deletes(polls: int) -> None:
    with FakeFirebaseML(polls=polls, page_size=2) as fake:
        fake.buckets[BUCKET] = FILES.get
        fake.signers[EMAIL] = private_key().public_key()
        seen = run_admin(fake)
        assert fake.violations == []
        assert fake.models == {}
    one, two = FILES["one.tflite"], FILES["two.tflite"]
    expected = {
        "name": "digits",
        "tags": ["one"],
        "published": False,
        "locked": False,
        "hash": sha256_of(one),
        "size": str(len(one)),
        "uri": f"gs://{BUCKET}/one.tflite",
        "error": None,
        "times": True,
    }
    assert seen["created"] == expected
    assert seen["published"] == {**expected, "published": True}
    updated = {
        **expected,
        "tags": ["one", "two"],
        "published": True,
        "hash": sha256_of(two),
        "uri": f"gs://{BUCKET}/two.tflite",
    }
    assert seen["updated"] == updated
    assert seen["renamed"] == {**updated, "name": "renamed"}
    assert seen["unpublished"] == {**updated, "name": "renamed", "published": False}
    assert seen["duplicate"] == ["ALREADY_EXISTS", "Model 'digits' already exists"]
    assert seen["hyphen"][0] == "INVALID_ARGUMENT"
    bad = seen["bad"]
    assert (bad["error"], bad["uri"]) == ("Invalid flatbuffer format", f"gs://{BUCKET}/bad.tflite")
    assert bad["hash"] is bad["size"] is None
    assert seen["publish_bad"] == ["FAILED_PRECONDITION", "Cannot publish a model that is not verified."]
    assert seen["empty"]["error"] == "No model file has been uploaded."
    assert seen["all"] == ["renamed", "bad", "empty"]
    assert seen["filtered"] == ["renamed", "bad", "empty"]
    assert seen["bad_filter"][0] == "INVALID_ARGUMENT"
    assert seen["deleted"] == []
    assert seen["delete_again"][0] == seen["get_missing"][0] == seen["publish_missing"][0] == "NOT_FOUND"
    assert "was not found" in seen["publish_missing"][1]

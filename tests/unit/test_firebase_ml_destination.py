"""FirebaseMLDestination: validated when written down; tells of the service's end once."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.firebase_ml import BUCKET, PROJECT, FakeFirebaseML
from tests.fakes.firebase_project import use_fake
from tfx_mobile import FirebaseMLDestination
from tfx_mobile.release_store.destinations import destinations_to_json, parse_destinations
from tfx_mobile.release_store.firebase_ml import shutdown
from tfx_mobile.release_store.signing import NO_KEYS

pytestmark = pytest.mark.filterwarnings("ignore:Google shuts Firebase ML:FutureWarning")

GIVEN = {"project_id": PROJECT, "bucket": BUCKET}


def test_json_round_trip() -> None:
    destination = FirebaseMLDestination(**GIVEN, tags=("team-a",), display_name="reader", max_model_bytes=1000)
    written = destinations_to_json([destination])
    assert parse_destinations(written) == (destination,)
    assert json.loads(written)[0]["type"] == "firebase_ml"
    assert (destination.size_limit, FirebaseMLDestination(**GIVEN).size_limit) == (1000, 40_000_000)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"project_id": "My Project"}, r"project_id='My Project': give the project's id"),
        ({"project_id": "12345678"}, "not its name or number"),
        ({"project_id": "short"}, "6 to 30"),
        ({"bucket": "gs://b/x"}, r"bucket='gs://b/x': .*FirebaseMLDestination\(bucket='b', prefix='x'\)"),
        ({"bucket": "No"}, "a bucket's name has"),
        ({"prefix": ""}, "a prefix is one folder"),
        ({"prefix": "a/../b"}, "a prefix is one folder"),
        ({"display_name": "my-model"}, r"display_name='my-model': .*letters, digits and underscores"),
        ({"display_name": "d" * 33}, "of 33 characters"),
        ({"tags": ("a b",)}, "the tag 'a b' is not of 1 to 32"),
        ({"tags": ("t" * 33,)}, "is not of 1 to 32"),
        ({"tags": ("sha_" + "0" * 24,)}, "looks like one that a push sets itself"),
        ({"tags": "one"}, "tags='one'"),
        ({"max_model_bytes": 0}, "max_model_bytes=0: .*greater than 0"),
        ({"signing_service_account": "me@example.com"}, "service account's e-mail address"),
        ({"keys": 3}, "keys=3: .*not permitted"),
    ],
)
def test_malformed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        FirebaseMLDestination(**{**GIVEN, **values})
    assert "Write FirebaseMLDestination(project_id='my-project'" in str(raised.value)


@pytest.mark.parametrize("bucket", ["my-project.appspot.com", "my-project.firebasestorage.app", "models_2"])
def test_buckets(bucket: str) -> None:
    assert FirebaseMLDestination(project_id=PROJECT, bucket=bucket).open_store().address == f"gs://{bucket}/firebase_ml"


def test_names_are_checked_when_the_pipeline_is_defined() -> None:
    destination = FirebaseMLDestination(**GIVEN)
    destination.check_names("digits", "beta-1")
    with pytest.raises(ValueError, match="would be the model"):
        destination.check_names("a_model_with_a_rather_long_name", "beta")
    FirebaseMLDestination(**GIVEN, display_name="reader").check_names("a_model_with_a_rather_long_name", "beta")


def test_plain_or_signed_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with FakeFirebaseML() as fake:
        use_fake(monkeypatch, fake)
        destination = FirebaseMLDestination(**GIVEN, gcs_uri=True)
        follower: Any = destination.open_follower(destination.open_store(), NO_KEYS)
        assert follower.source("blobs/digits/x.tflite") == f"gs://{BUCKET}/firebase_ml/blobs/digits/x.tflite"
        assert fake.num_requests == 0


def test_a_warning_with_the_date_once_in_a_process(caplog: pytest.LogCaptureFixture) -> None:
    shutdown.warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FirebaseMLDestination(**GIVEN)
        FirebaseMLDestination(**GIVEN)
        parse_destinations([{"type": "firebase_ml", **GIVEN}])
    (warning,) = caught
    assert warning.category is FutureWarning
    assert "2027-06-15" in str(warning.message)
    assert "CloudStorageDestination" in str(warning.message)
    assert warning.filename == __file__
    assert caplog.text.count("2027-06-15") == 1


def test_nothing_heavy_is_imported_on_the_way() -> None:
    program = (
        "import json, sys, warnings; warnings.simplefilter('ignore'); from tfx_mobile import FirebaseMLDestination; "
        f"d = FirebaseMLDestination(project_id='{PROJECT}', bucket='{BUCKET}'); "
        "light = [n for n in ('google.auth', 'requests', 'tfx', 'tensorflow') if n in sys.modules]; "
        "from tfx_mobile.release_store.signing import NO_KEYS; d.open_follower(d.open_store(), NO_KEYS); "
        "import tfx_mobile.release_store.firebase_ml.importing; "
        "heavy = [n for n in ('tfx', 'tensorflow', 'apache_beam', 'firebase_admin') if n in sys.modules]; "
        "print(json.dumps([light, heavy]))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]

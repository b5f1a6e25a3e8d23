"""Our own words for Firebase ML's interface say what Google's published description says."""

import pytest

firebase_ml_description = pytest.importorskip(
    "tests.fakes.firebase_ml_description", reason="the fakes are in the checkout only"
)


def test_ours_says_what_google_publishes() -> None:
    published = firebase_ml_description.published()
    if published is None:
        pytest.skip("Google's description is not there; `make setup` brings it")
    ours = firebase_ml_description.OURS
    assert published.methods == ours.methods
    assert published.schemas == ours.schemas
    assert published.common_query == ours.common_query


@pytest.mark.parametrize(
    ("schema", "value", "wrong"),
    [
        ("Model", {"displayName": "x", "state": {"published": True}, "tags": ["a"]}, False),
        ("Model", {"displayname": "x"}, True),
        ("Model", {"state": {"published": "yes"}}, True),
        ("Model", {"createTime": "yesterday"}, True),
        ("Model", {"activeOperations": [{"done": 1}]}, True),
        ("DownloadModelResponse", {"sizeBytes": 12}, True),
        ("DownloadModelResponse", {"modelFormat": "ONNX"}, True),
        ("Status", {"code": 2**40}, True),
    ],
)
def test_values_are_held_against_it(schema: str, value: object, wrong: bool) -> None:
    assert bool(firebase_ml_description.description().problems(schema, value)) is wrong

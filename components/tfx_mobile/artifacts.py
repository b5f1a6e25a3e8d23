"""TFX artifact types, the names of their custom properties, and the layout inside them.

What is a `.tflite` has a type of its own: a standard Model or ModelBlessing would be picked up by TFX's
LatestBlessedModelStrategy as the float baseline of the next run. Types are named `tfx_mobile.<Class>`, declare no
PROPERTIES and are importable from the package root, which Kubeflow and Vertex need.
"""

from __future__ import annotations

import posixpath

from tfx.types.artifact import Artifact

MANIFEST_FILE = "manifest.json"
RECIPE_FILE = "recipe.json"
RECORD_FILE = "record.json"
BLESSING_FILE = "blessing.json"
REPORT_FILE = "report.html"
MODEL_CARD_FILE = "model_card.md"
RELEASE_FILE = "release.json"
RECEIPTS_FILE = "receipts.json"
REASONS_FILE = "reasons.json"
MODEL_FILE = "model.tflite"
GOLDEN_FILE = "golden.json"
_LAYERS_FOLDER = "layers"
BLESSED_FILE = "BLESSED"
NOT_BLESSED_FILE = "NOT_BLESSED"

# Custom properties. PushedModel's first three are the stock Pusher's own names.
BLESSED = "blessed"
VARIANT = "variant"
SHA256 = "sha256"
SIZE_BYTES = "size_bytes"
SOURCE_SHA256 = "source_sha256"
REASONS = "reasons"
NUM_VARIANTS = "num_variants"
NUM_FAILED = "num_failed"
PUSHED = "pushed"
PUSHED_DESTINATION = "pushed_destination"
PUSHED_VERSION = "pushed_version"
PUSH_STATUS = "push_status"
RELEASE_ID = "release_id"
PREVIOUS_RELEASE_ID = "previous_release_id"
MANIFEST_URI = "manifest_uri"
CHANNEL = "channel"
CHANNEL_VERSION = "channel_version"
DESTINATIONS = "destinations"
LABELS = "labels"
SIGNING_KEY_ID = "signing_key_id"
ROLLOUT = "rollout"


class TFLiteVariants(Artifact):
    """The variants TFLiteConverter made of one model.

    Layout: `manifest.json` (a VariantManifest) and, per converted recipe, `<recipe name>/model.tflite` with
    `<recipe name>/recipe.json`.
    """

    TYPE_NAME = "tfx_mobile.TFLiteVariants"


class TFLiteModel(Artifact):
    """The blessed variant: `model.tflite`, `record.json`, `model_card.md`, and `golden.json` for apps to check.

    `golden.json` (GoldenVectors) is missing if no golden examples were asked for. Not blessed: only a `record.json`
    that says so.
    """

    TYPE_NAME = "tfx_mobile.TFLiteModel"


class TFLiteBlessing(Artifact):
    """The verdict: `blessing.json` (an EvaluationRecord) and an empty `BLESSED` or `NOT_BLESSED`."""

    TYPE_NAME = "tfx_mobile.TFLiteBlessing"


def layers_path(variant: str) -> str:
    """Path of a variant's errors by layer, for Model Explorer, below the uri of its ModelEvaluation artifact."""
    return posixpath.join(_LAYERS_FOLDER, f"{variant}.json")


def variant_path(recipe_name: str) -> str:
    """Path of a variant's file below the uri of its TFLiteVariants artifact."""
    return posixpath.join(recipe_name, MODEL_FILE)

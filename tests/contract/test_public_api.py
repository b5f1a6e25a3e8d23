"""What users rely on. Also run against the installed wheel, from outside the checkout."""

import importlib.metadata
import importlib.resources
import subprocess
import sys

import pytest

import tfx_mobile

PUBLIC = [
    "Budget",
    "CalibrationSpec",
    "CloudStorageDestination",
    "Confidence",
    "ConversionRecipe",
    "DeviceLatency",
    "EnvironmentSigningKey",
    "FilesystemDestination",
    "FirebaseMLDestination",
    "KmsSigningKey",
    "LatencySpec",
    "MetadataSpec",
    "MobilePusher",
    "ObjectStoreDestination",
    "ProductionModel",
    "QuantizationEvaluator",
    "RemoteConfigRollout",
    "RepairSpec",
    "TFLiteBlessing",
    "TFLiteConverter",
    "TFLiteModel",
    "TFLiteVariants",
    "TFXMobileError",
    "__version__",
    "beam_worker_args",
    "blessed",
    "read_device_latencies",
]


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_public_names_are_these():
    assert tfx_mobile.__all__ == PUBLIC
    assert dir(tfx_mobile) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name):
    assert getattr(tfx_mobile, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Converter'"):
        _ = tfx_mobile.Converter


def test_the_version_is_the_distributions():
    assert importlib.metadata.version("tfx-mobile") == tfx_mobile.__version__


@pytest.mark.parametrize(
    "name",
    [
        "ConversionRecipe",
        "CalibrationSpec",
        "Budget",
        "LatencySpec",
        "CloudStorageDestination",
        "FilesystemDestination",
        "ObjectStoreDestination",
        "KmsSigningKey",
        "EnvironmentSigningKey",
        "RemoteConfigRollout",
        "FirebaseMLDestination",
        "ProductionModel",
        "read_device_latencies",
        "beam_worker_args",
    ],
)
def test_plain_data_imports_neither_tfx_nor_tensorflow(name):
    heavy = "('tfx', 'tensorflow', 'apache_beam', 'tensorflow_model_analysis', 'keras')"
    code = f"import sys; from tfx_mobile import {name}; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_defining_components_does_not_import_tfma():
    # TFX's own base classes import TensorFlow; TFMA and Beam, the slow ones, must wait for execution.
    code = (
        "import sys; from tfx_mobile import TFLiteConverter, QuantizationEvaluator, MobilePusher; "
        "print([m for m in ('tensorflow_model_analysis',) if m in sys.modules])"
    )
    assert run_python(code) == "[]"


@pytest.mark.parametrize(
    "path",
    [
        "tfx_mobile.tflite_converter.executor.Executor",
        "tfx_mobile.quantization_evaluator.executor.Executor",
        "tfx_mobile.mobile_pusher.executor.Executor",
    ],
)
def test_compiled_pipelines_find_their_executors(path):
    from tfx.utils import import_utils

    assert import_utils.import_class_by_path(path).__name__ == "Executor"


@pytest.mark.parametrize("name", ["TFLiteVariants", "TFLiteModel", "TFLiteBlessing"])
def test_artifact_types_follow_the_rules_of_kubeflow(name):
    import re

    artifact = getattr(tfx_mobile, name)
    assert f"tfx_mobile.{name}" == artifact.TYPE_NAME
    # The rule of TFX's Kubeflow compiler for custom types; they may not declare properties either.
    assert re.fullmatch(r"[a-z][a-z0-9-_]{2,20}[.][A-Z][a-zA-Z0-9-_]{2,49}", artifact.TYPE_NAME)
    assert not artifact.PROPERTIES


def test_the_distribution_is_typed_and_whole():
    files = importlib.resources.files("tfx_mobile")
    assert files.joinpath("py.typed").is_file()
    assert files.joinpath("quantization_evaluator", "report", "templates", "page.html.jinja").is_file()

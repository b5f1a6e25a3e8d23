"""From a TFX pipeline to the phone: convert, judge and publish on-device models.

Everything a pipeline author writes comes from here. Names are loaded when they are first used, so that importing a
recipe does not import TFX, and defining a pipeline does not import TFMA.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "TFLiteConverter": "tfx_mobile.tflite_converter.component",
    "QuantizationEvaluator": "tfx_mobile.quantization_evaluator.component",
    "MobilePusher": "tfx_mobile.mobile_pusher.component",
    "ConversionRecipe": "tfx_mobile.recipes",
    "CalibrationSpec": "tfx_mobile.recipes",
    "MetadataSpec": "tfx_mobile.recipes",
    "RepairSpec": "tfx_mobile.recipes",
    "Budget": "tfx_mobile.records",
    "Confidence": "tfx_mobile.records",
    "DeviceLatency": "tfx_mobile.records",
    "LatencySpec": "tfx_mobile.records",
    "ProductionModel": "tfx_mobile.quantization_evaluator.production",
    "read_device_latencies": "tfx_mobile.quantization_evaluator.judging.device_latency",
    "CloudStorageDestination": "tfx_mobile.release_store.destinations",
    "FilesystemDestination": "tfx_mobile.release_store.destinations",
    "ObjectStoreDestination": "tfx_mobile.release_store.destinations",
    "KmsSigningKey": "tfx_mobile.release_store.signing_keys",
    "EnvironmentSigningKey": "tfx_mobile.release_store.signing_keys",
    "RemoteConfigRollout": "tfx_mobile.rollout.spec",
    "FirebaseMLDestination": "tfx_mobile.release_store.destinations",
    "TFLiteVariants": "tfx_mobile.artifacts",
    "TFLiteModel": "tfx_mobile.artifacts",
    "TFLiteBlessing": "tfx_mobile.artifacts",
    "TFXMobileError": "tfx_mobile.errors",
    "beam_worker_args": "tfx_mobile.beam_workers",
    "blessed": "tfx_mobile.conditions",
}

__all__ = [
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

if TYPE_CHECKING:
    from tfx_mobile.artifacts import TFLiteBlessing, TFLiteModel, TFLiteVariants
    from tfx_mobile.beam_workers import beam_worker_args
    from tfx_mobile.conditions import blessed
    from tfx_mobile.errors import TFXMobileError
    from tfx_mobile.mobile_pusher.component import MobilePusher
    from tfx_mobile.quantization_evaluator.component import QuantizationEvaluator
    from tfx_mobile.quantization_evaluator.judging.device_latency import read_device_latencies
    from tfx_mobile.quantization_evaluator.production import ProductionModel
    from tfx_mobile.recipes import CalibrationSpec, ConversionRecipe, MetadataSpec, RepairSpec
    from tfx_mobile.records import Budget, Confidence, DeviceLatency, LatencySpec
    from tfx_mobile.release_store.destinations import (
        CloudStorageDestination,
        FilesystemDestination,
        FirebaseMLDestination,
        ObjectStoreDestination,
    )
    from tfx_mobile.release_store.signing_keys import EnvironmentSigningKey, KmsSigningKey
    from tfx_mobile.rollout.spec import RemoteConfigRollout
    from tfx_mobile.tflite_converter.component import TFLiteConverter


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

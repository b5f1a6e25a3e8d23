"""Carries out recipes in the child process, and decides for each which way to go.

Recipes that calibrate share one calibration where TensorFlow and the model allow it; the others, and all of them where
it does not, go through TensorFlow's public converter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records import Calibrated, RepairRecord
from tfx_mobile.tflite_converter import failures, float_layers, int4, quantize, repair
from tfx_mobile.tflite_converter.shared_calibration import CannotShareError, SharedCalibration


@dataclass(frozen=True)
class Made:
    """What came of a recipe.

    Attributes:
        data: The file.
        calibrated: As in the manifest.
        repair: As in the manifest.
    """

    data: bytes
    calibrated: Calibrated | None = None
    repair: RepairRecord | None = None


class RecipeRunner:
    """Makes files from one SavedModel that is ready for the converter."""

    def __init__(
        self,
        saved_model: str,
        signature_key: str,
        representative: quantize.Representative | None,
        ranking: Callable[[ConversionRecipe], repair.Examples],
        work_dir: str | Path,
        progress: Callable[[], None],
        *,
        may_share: bool,
        allow_select_tf_ops: bool = False,
        has_state: bool = False,
    ) -> None:
        """Does nothing yet.

        Args:
            saved_model: Local path of the SavedModel.
            signature_key: The signature to convert.
            representative: As for `quantize.convert`, for the recipes that calibrate; None if the SavedModel holds
                trained ranges.
            ranking: For a `mixed_precision` recipe: the examples that layers are judged on.
            work_dir: Local folder for what is shared.
            progress: Called whenever a step is done.
            may_share: Whether a calibration may be shared.
            allow_select_tf_ops: As for `quantize.convert`.
            has_state: As for `quantize.convert`.
        """
        self._saved_model = saved_model
        self._signature_key = signature_key
        self._representative = representative
        self._ranking = ranking
        self._progress = progress
        self._shared: SharedCalibration | None = None
        self._allow_select_tf_ops = allow_select_tf_ops
        self._has_state = has_state
        if may_share and representative is not None and not has_state:
            directory = Path(work_dir) / f"shared-{hashlib.sha256(saved_model.encode()).hexdigest()[:16]}"
            try:
                self._shared = SharedCalibration(saved_model, signature_key, representative, directory, progress)
            except CannotShareError:
                self._shared = None

    def run(self, recipe: ConversionRecipe) -> Made:
        """Makes the file of a recipe.

        Args:
            recipe: Its batch size is the SavedModel's.

        Raises:
            Exception: Whatever TensorFlow raises.
            failures.RecipeFailed: The recipe does not fit the model.
        """
        if self._shared is not None:
            try:
                return self._from_shared(self._shared, recipe)
            except failures.RecipeFailed:
                raise
            except Exception:  # noqa: BLE001, S110 - the public converter decides what is wrong, if anything is
                pass
        return self._alone(recipe)

    def _from_shared(self, shared: SharedCalibration, recipe: ConversionRecipe) -> Made:
        if recipe.quantization == "none":
            return Made(shared.float32())
        if recipe.quantization == "int4":
            return Made(int4.quantize(shared.float32()))
        if not recipe.calibrates:
            return self._alone(recipe)
        if recipe.quantization == "mixed_precision":
            data, record = repair.repair(
                recipe, shared.float32(), shared.quantized, self._ranking(recipe), self._progress
            )
            return Made(data, "shared", record)
        if recipe.float_layers:
            _check_names(recipe, shared.float32())
        return Made(shared.quantized(recipe), "shared")

    def _alone(self, recipe: ConversionRecipe) -> Made:
        if recipe.quantization == "mixed_precision":
            debugger: list[quantize.FloatLayersConverter] = []

            def make(plain: ConversionRecipe) -> bytes:
                if not plain.float_layers:
                    return self._public(plain)
                if not debugger:
                    debugger.append(
                        quantize.with_select_tf_ops_if_needed(self._float_layers, self._allow_select_tf_ops)
                    )
                return debugger[0].convert(plain.float_layers)

            data, record = repair.repair(recipe, self._float32(), make, self._ranking(recipe), self._progress)
            return Made(data, "own", record)
        if recipe.quantization == "int4":
            return Made(int4.quantize(self._float32()))
        if recipe.float_layers:
            _check_names(recipe, self._float32())
        calibrates = recipe.calibrates and self._representative is not None
        return Made(self._public(recipe), "own" if calibrates else None)

    def _float_layers(self, select_tf_ops: bool) -> quantize.FloatLayersConverter:
        return quantize.FloatLayersConverter(
            self._saved_model, self._signature_key, self._representative, select_tf_ops=select_tf_ops
        )

    def _float32(self) -> bytes:
        return self._public(ConversionRecipe(name="float32", quantization="none"))

    def _public(self, recipe: ConversionRecipe) -> bytes:
        representative = self._representative if recipe.calibrates else None
        return quantize.convert(
            recipe,
            self._saved_model,
            self._signature_key,
            representative,
            allow_select_tf_ops=self._allow_select_tf_ops,
            has_state=self._has_state,
        )


def _check_names(recipe: ConversionRecipe, float_model: bytes) -> None:
    layers = float_layers.layers(float_model)
    if unknown := float_layers.unknown(recipe.float_layers, layers):
        raise failures.RecipeFailed(failures.unknown_layers(unknown, [layer.name for layer in layers]))

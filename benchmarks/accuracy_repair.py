"""What `mixed_precision` makes of a network that full-integer quantization ruins, and what it costs.

The network is that of `reference_models.py`: MobileNet 224 with random weights, whose layers magnify rounding errors so
that `full_integer` agrees with the float model on few images. Layers are ranked on images that did not calibrate; the
agreement that counts is that on images the search never saw.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from measuring import run_child, write_result
from reference_models import converted
from tfx_mobile.recipes import BUILTIN_RECIPES, CalibrationSpec, ConversionRecipe, RepairSpec

CALIBRATION = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="MobileNet", help="as in reference_models.py")
    parser.add_argument("--trials", type=int, default=20, help="most conversions that the search may try")
    parser.add_argument("--ranking", type=int, default=80, help="images that layers are ranked on")
    parser.add_argument("--images", type=int, default=200, help="unseen images for the agreement that counts")
    parser.add_argument("--child", choices=("agree",), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(agree(arguments.work)))
        return
    with tempfile.TemporaryDirectory() as temp:
        result = run(Path(temp), arguments)
    write_result(__file__, result)


def run(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    reference = str(Path(__file__).with_name("reference_models.py"))
    samples = CALIBRATION + arguments.ranking
    run_child(
        reference, "prepare", models=arguments.model, work=work, samples=samples, images=arguments.images, rounds=1
    )
    bounds = RepairSpec(max_trials=arguments.trials, num_examples=arguments.ranking)
    recipe = ConversionRecipe(name="mixed_precision", quantization="mixed_precision", repair=bounds)
    recipes = (BUILTIN_RECIPES["float32"], BUILTIN_RECIPES["full_integer"], recipe)
    spec = CalibrationSpec(num_samples=CALIBRATION, evaluation_split=None)
    conversion = converted(work, "saved_model", recipes, spec, (str(work / "train.gz"),))
    (work / "files.json").write_text(json.dumps({name: str(path) for name, path in conversion.files.items()}))
    unseen = run_child(__file__, "agree", work=work)
    repair = conversion.variants[-1].repair
    assert repair is not None, conversion.variants[-1].failure
    sizes = {v.name: v.file.size_bytes for v in conversion.variants if v.file is not None}
    print(f"{arguments.model}: agreement with float on {arguments.images} unseen images, share of the float32 file")
    for name, size in sizes.items():
        print(f"  {name:<16} {unseen[name]:.3f}  {size / sizes['float32']:.2f}")
    print(
        f"{len(repair.trials)} trials, {len(repair.float_layers)} layers in float, within tolerance: {repair.repaired}"
    )
    return {
        "model": arguments.model,
        "ranking_images": arguments.ranking,
        "unseen_images": arguments.images,
        "unseen_agreement": unseen,
        "size_bytes": sizes,
        "ranking_agreement": {"full_integer": repair.quantized_quality, "mixed_precision": repair.quality},
        "trials": len(repair.trials),
        "float_layers": len(repair.float_layers),
        "repaired": repair.repaired,
    }


def agree(work: Path) -> dict[str, float]:
    import numpy as np

    from tfx_mobile.tflite.runtime import SignatureRunner

    unseen, expected = np.load(work / "images.npy"), np.load(work / "expected.npy").argmax(axis=1)
    shares = {}
    for name, path in json.loads((work / "files.json").read_text()).items():
        outputs = SignatureRunner(Path(path).read_bytes()).run({"image": unseen})["output_0"]
        shares[name] = round(float(np.mean(outputs.argmax(axis=1) == expected)), 4)
    return shares


if __name__ == "__main__":
    main()

"""Beam arguments by which workers on other machines get this package, at this version, with what it needs.

Left alone, TFX packs nothing but itself for the workers (tfx/utils/dependency_utils.py); it steps back as soon as one
of the arguments made here is given.
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from pathlib import Path

from tfx_mobile import installation
from tfx_mobile.errors import BeamWorkerError

# A reference to an image as registries take it: host and path, then a tag or a digest.
_IMAGE = re.compile(r"[\w][\w.-]*(:\d+)?(/[\w][\w.-]*)*(:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?")
_EXAMPLE_IMAGE = "europe-docker.pkg.dev/my-project/images/mobile:2024-05-01"


def beam_worker_args(container_image: str | None = None, folder: str | Path | None = None) -> list[str]:
    """Beam pipeline arguments that make workers on other machines find tfx-mobile as it is installed here.

    Add them to those that choose and configure the runner, for a pipeline or for QuantizationEvaluator alone:

        beam_pipeline_args=["--runner=DataflowRunner", "--project=...", *beam_worker_args(container_image=IMAGE)]

    Workers on this machine (the default runner in any mode, or a portable runner with LOOPBACK) need none of it.

    Args:
        container_image: The image that workers run in. It must hold Beam's worker harness and everything that
            tfx-mobile needs, at the versions installed here; and tfx-mobile itself, unless `folder` is given. None for
            Beam's own image, into which each worker then installs everything when it starts.
        folder: Where the wheel of tfx-mobile is written, and without an image also a `requirements.txt` with the
            installed version of everything that it needs. It must exist where Beam jobs are submitted, that is, where
            the component runs. None for a temporary one that is removed when this process ends; so pass one if the
            component runs in another process. With an image, None means that no wheel is given to the workers.

    Returns:
        With an image `--sdk_container_image`, without one `--requirements_file`; and `--extra_package` for the wheel.

    Raises:
        BeamWorkerError: A ValueError. An argument is not valid, tfx-mobile is not properly installed, or something it
            needs was installed from a place that workers may not reach.
    """
    arguments = []
    if container_image is not None:
        arguments.append(f"--sdk_container_image={_checked_image(container_image)}")
        if folder is None:
            return arguments
    target = _temporary_folder() if folder is None else _made_folder(folder)
    if container_image is None:
        arguments.append(f"--requirements_file={installation.write_requirements(target)}")
    return [*arguments, f"--extra_package={installation.write_wheel(target)}"]


def _checked_image(image: str) -> str:
    if not isinstance(image, str) or not _IMAGE.fullmatch(image):
        raise BeamWorkerError(
            f"container_image={image!r} is no reference to a container image. Give one such as {_EXAMPLE_IMAGE!r}."
        )
    return image


def _made_folder(folder: str | Path) -> Path:
    if "://" in str(folder) or not str(folder):
        raise BeamWorkerError(
            f"folder={str(folder)!r} is no local folder, which is where Beam takes files for its workers from. Give a "
            "local path; Beam copies the files to its own staging location."
        )
    target = Path(folder).absolute()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BeamWorkerError(f"folder={str(folder)!r} cannot be made: {error}. Give a folder to write to.") from None
    return target


def _temporary_folder() -> Path:
    folder = tempfile.mkdtemp(prefix="tfx-mobile-workers-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)

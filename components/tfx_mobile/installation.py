"""The installed package as files that another machine can install: its wheel, and what it runs on here.

Works for an installed wheel and for an editable checkout alike: the wheel holds the code that this process imports.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tfx_mobile.errors import BeamWorkerError

DISTRIBUTION = "tfx-mobile"

# Of what an installer leaves, only this is the same everywhere; the rest says how and where it was installed.
_METADATA_FILES = ("METADATA", "entry_points.txt")
_LICENSES = "licenses"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_INSTALL_AGAIN = "Install tfx-mobile into this environment: pip install tfx-mobile, or pip install -e . in a checkout."


def write_wheel(folder: Path) -> Path:
    """Writes the wheel of the installed tfx-mobile; the same code gives the same bytes.

    Args:
        folder: An existing folder.

    Returns:
        The wheel's path, `tfx_mobile-<version>-py3-none-any.whl`.

    Raises:
        BeamWorkerError: tfx-mobile is not installed, or its metadata are incomplete or those of another version.
    """
    distribution = _distribution(DISTRIBUTION)
    version = distribution.version
    if version != (running := sys.modules["tfx_mobile"].__version__):
        raise BeamWorkerError(
            f"The code is tfx-mobile {running}, the installed metadata say {version}. {_INSTALL_AGAIN}"
        )
    name = DISTRIBUTION.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = {
        **{f"{name}/{path}": data for path, data in _package_files(Path(__file__).parent).items()},
        **{f"{info}/{path}": data for path, data in _metadata_files(distribution).items()},
        f"{info}/WHEEL": (
            f"Wheel-Version: 1.0\nGenerator: {DISTRIBUTION} {version}\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ).encode(),
    }
    files = dict(sorted(files.items()))
    record = "".join(f"{path},{_record_hash(data)},{len(data)}\n" for path, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return _write(folder / f"{name}-{version}-py3-none-any.whl", _zip(files))


def write_requirements(folder: Path) -> Path:
    """Writes `requirements.txt`: what tfx-mobile needs, directly or not, pinned to the versions installed here.

    Args:
        folder: An existing folder.

    Raises:
        BeamWorkerError: A distribution is missing, or comes from a place that other machines may not have.
    """
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(DISTRIBUTION, "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        distribution = _distribution(name)
        if name != DISTRIBUTION:
            _check_origin(distribution)
            versions[name] = distribution.version
        for text in distribution.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    return _write(folder / "requirements.txt", "".join(f"{n}=={v}\n" for n, v in sorted(versions.items())).encode())


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise BeamWorkerError(f"The distribution {name} is not installed. {_INSTALL_AGAIN}") from None


def _check_origin(distribution: importlib.metadata.Distribution) -> None:
    """Refuses what was installed from a folder or an address, as its version may exist nowhere else (PEP 610)."""
    if origin := distribution.read_text("direct_url.json"):
        raise BeamWorkerError(
            f"{distribution.metadata['Name']} {distribution.version} was installed from {json.loads(origin)['url']}, "
            "where workers may not find it. Install a released version, or pass container_image=..."
        )


def _package_files(package: Path) -> dict[str, bytes]:
    return {
        path.relative_to(package).as_posix(): path.read_bytes()
        for path in package.rglob("*")
        if path.is_file()
        and path.suffix != ".pyc"
        and not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(package).parts)
    }


def _metadata_files(distribution: importlib.metadata.Distribution) -> dict[str, bytes]:
    files = {}
    for path in distribution.files or ():
        if path.parent.suffix == ".dist-info" and path.name in _METADATA_FILES:
            files[path.name] = path.read_binary()
        elif _LICENSES in path.parts and path.parts[0].endswith(".dist-info"):
            files["/".join(path.parts[1:])] = path.read_binary()
    if "METADATA" not in files:
        raise BeamWorkerError(f"The metadata of tfx-mobile are not complete. {_INSTALL_AGAIN}")
    return files


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return buffer.getvalue()


def _record_hash(data: bytes) -> str:
    return f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()}"


def _write(path: Path, data: bytes) -> Path:
    """In one step, as several schedulers may write the same file at once."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
        stream.write(data)
    os.chmod(stream.name, 0o644)
    os.replace(stream.name, path)
    return path

"""manifest.json of a build folder: what was built, from what, and what it takes and gives."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onnxgraft.errors import InputError

_PACKAGES = ("onnxgraft", "onnx", "onnx-graphsurgeon", "onnxruntime", "numpy", "tensorrt-rtx-cu13", "tensorrt")


def versions() -> dict[str, str]:
    """Versions of the packages that decide about a build; absent ones are left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_manifest(build: Path) -> dict[str, Any]:
    """manifest.json of a build directory. Raises InputError when it is none."""
    path = build / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{build}: no build (it has no manifest.json)") from error
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); build it again") from error
    missing = [key for key in ("io", "preprocess", "runnable") if key not in manifest]
    if missing:
        raise InputError(f"{path}: {missing[0]!r} is missing; build it again")
    return dict(manifest)

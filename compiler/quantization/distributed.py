"""Calibration on many machines through Ray: one shard a task, merged exactly into what one run gives."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxgraft.atomic import scratch
from onnxgraft.errors import InputError, MissingExtraError
from onnxgraft.files import write_atomically
from onnxgraft.options import Options
from onnxgraft.quantization.calibration import Calibration, merge_files


def calibrate(
    model: str,
    output: Path,
    images: Path | None = None,
    limit: int | None = None,
    options: Options | None = None,
    shards: int = 2,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Calibration:
    """As calibrate.calibrate, in `shards` tasks of the Ray cluster that is connected, or of a local one.

    `model` and `images` must be there on every machine under the same path.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: what a shard raised, in its words.
    """
    ray = _ray()
    if shards < 1:
        raise InputError(f"--ray {shards}: give at least 1 shard")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    task = ray.remote(_shard)
    waiting = [task.remote(model, images and images.absolute(), limit, options, f"{i}/{shards}") for i in range(1, shards + 1)]
    with scratch() as folder:
        parts: list[Path] = []
        progress(0, shards, "shards")
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            found, reason = ray.get(done)
            if reason:
                raise InputError(reason)
            parts.append(folder / f"{len(parts)}.json")
            write_atomically(parts[-1], found)
            progress(len(parts), shards, "shards")
        return merge_files(parts, output)


def _shard(
    model: str, images: Path | None, limit: int | None, options: Options | None, shard: str
) -> tuple[bytes, str]:
    """Runs on a worker: the bytes of the shard's calibration, or why there is none."""
    from onnxgraft.errors import OnnxgraftError
    from onnxgraft.quantization.calibrate import calibrate as measure

    with scratch() as folder:
        part = folder / "part.json"
        try:
            measure(model, part, images, limit, options, shard)
        except OnnxgraftError as error:
            return b"", f"shard {shard}: {error}"
        return part.read_bytes(), ""


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError("--ray needs Ray: pip install 'onnxgraft[ray]'") from error

"""Calibration on many machines through Ray: one shard a task, merged exactly into what one run gives."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
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
    if shards < 1:
        raise InputError(f"--ray {shards}: give at least 1 shard")
    where = images and images.absolute()
    calls = [(model, where, limit, options, f"{i}/{shards}") for i in range(1, shards + 1)]
    with scratch() as folder:
        parts: list[Path] = []
        for number, found in gather(_shard, calls, progress):
            parts.append(folder / f"{number}.json")
            write_atomically(parts[-1], found)
        return merge_files(parts, output)


def gather(
    task: Callable[..., tuple[Any, str]], calls: Sequence[tuple[Any, ...]], progress: Callable[[int, int, str], None]
) -> Iterator[tuple[int, Any]]:
    """Run a function once per tuple of arguments on the Ray cluster that is connected, or on a local one.

    Args:
        task: gives a result, and in words why there is none ("" where there is one).
        calls: its arguments.
        progress: called with (calls done, calls in all, "shards").

    Yields:
        The number of a call and its result, in the order in which they end.

    Raises:
        MissingExtraError: Ray is not installed. InputError: what a call gave as its reason.
    """
    ray = _ray()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    remote = ray.remote(task)
    numbers = {remote.remote(*arguments): number for number, arguments in enumerate(calls)}
    waiting = list(numbers)
    progress(0, len(calls), "shards")
    while waiting:
        (done, *_), waiting = ray.wait(waiting)
        found, reason = ray.get(done)
        if reason:
            raise InputError(reason)
        yield numbers[done], found
        progress(len(calls) - len(waiting), len(calls), "shards")


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

"""Checkpoints into models: all weights or none. Imported only where torch and detectron2 are installed."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager

from onnxgraft.errors import InputError
from onnxgraft.frontends.detectron2 import safe_pickle
from onnxgraft.frontends.detectron2.configs import Source
from onnxgraft.frontends.detectron2.supported import RANDOM

NAMES = 4  # of a long list of weights that are told
# Counters of training, which inference does not read.
IGNORED = ("num_batches_tracked",)


class _Checkpointer(DetectionCheckpointer):
    """A checkpointer that keeps what did not fit instead of logging it, and runs no code of a file that is not trusted."""

    misfit: Any = None
    trusted = False

    def _load_file(self, filename: str) -> Any:
        if self.trusted:
            return super()._load_file(filename)
        if filename.endswith(".pyth"):
            raise pickle.UnpicklingError("it is of pycls, whose files are not read the safe way")
        if not filename.endswith(".pkl"):
            return super()._load_file(filename)
        data = safe_pickle.read(filename)
        if not isinstance(data, dict):
            raise ValueError("it holds no weights by name")
        if "model" in data and "__author__" in data:
            return data
        data = data.get("blobs", data)  # Caffe2 and Detectron1: their names are matched by detectron2's heuristics
        weights = {name: value for name, value in data.items() if not name.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}

    def _torch_load(self, f: str) -> Any:
        return torch.load(f, map_location="cpu", weights_only=not self.trusted)

    def _load_model(self, checkpoint: Any) -> Any:
        self.misfit = super()._load_model(checkpoint)


def load(source: Source, weights: str | None, trust: bool = False) -> list[str]:
    """Load `weights` (a .pkl or .pth file, a URL, "random", or None for the config's own) into the model.

    Such files are pickles, which are programs: without `trust`, one that does more than make arrays is refused.

    Returns notes for the user. Raises InputError when there are none, the file cannot be read, or it does not fit.
    """
    if weights == RANDOM:
        return ["the weights are random: scores mean nothing"]
    path = weights if weights is not None else source.weights
    if not path:
        raise InputError(f"the config names no weights: give --weights FILE, or --weights {RANDOM}")
    if weights is None and not Path(path).is_file():
        raise InputError(f"the config's weights {path} are no file here: give --weights FILE, or --weights {RANDOM}")
    checkpointer = _Checkpointer(source.model)
    checkpointer.trusted = trust
    for name in ("fvcore.common.checkpoint", "detectron2.checkpoint"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if not PathManager.isfile(path) and "://" not in path:
            raise InputError(f"{path}: no such file")
        checkpointer.load(path)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|it calls) ([\w.]+)", str(error))
        what = f" (it calls {asked[1]})" if asked else ""
        raise InputError(f"{path}: holds more than weights, or is no checkpoint{what}: loading it may run code of its author; "
                         "give --trust if you trust its author") from error  # fmt: skip
    except Exception as error:  # torch, pickle and network errors have no common kind
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a checkpoint that detectron2 reads: {line[:200]}") from error
    refuse_misfit(path, checkpointer.misfit)
    return []


def refuse_misfit(path: str, misfit: Any) -> None:
    """Raises InputError naming the weights that a checkpoint lacks, has too many, or has in another shape."""
    wrong = [
        f"{name} is {_shape(found)} and not {_shape(wanted)}" for name, found, wanted in getattr(misfit, "incorrect_shapes", [])
    ]
    reshaped = {name for name, *_ in getattr(misfit, "incorrect_shapes", [])}
    missing = [name for name in misfit.missing_keys if not name.endswith(IGNORED) and name not in reshaped]
    unexpected = [name for name in misfit.unexpected_keys if not name.endswith(IGNORED)]
    told = [
        f"{what} {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shape:", wrong))
        if names
    ]
    if told:
        raise InputError(f"{path} does not fit the config: {'; '.join(told)}")


def _shape(size: Iterable[int]) -> str:
    return "x".join(map(str, size)) or "a scalar"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES])
    return shown if len(names) <= NAMES else f"{shown} and {len(names) - NAMES} more"

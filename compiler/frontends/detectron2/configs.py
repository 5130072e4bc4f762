"""detectron2 configs, yaml and LazyConfig, to models. Imported only where torch and detectron2 are installed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2 import model_zoo
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.projects import point_rend
from omegaconf import OmegaConf

from onnxgraft.errors import InputError

_ABSENT = object()


@dataclass(frozen=True)
class Source:
    """A config and the model that it describes, in evaluation mode on the CPU with initial weights."""

    config: Any  # CfgNode, or DictConfig of a LazyConfig
    model: torch.nn.Module

    @property
    def lazy(self) -> bool:
        return hasattr(self.config, "_metadata")

    @property
    def weights(self) -> str:
        """The checkpoint that the config names, or nothing."""
        if self.lazy:
            return str((self.config.get("train") or {}).get("init_checkpoint") or "")
        return str(self.config.MODEL.WEIGHTS)


def load(config: str | Path, overrides: Sequence[str] = ()) -> Source:
    """The config and its model; see `onnxgraft.frontends.detectron2.export` for the arguments.

    Raises InputError when the config cannot be read, a key is unknown, or the model cannot be built from it.
    """
    path = find(str(config))
    logging.getLogger("fvcore.common.config").setLevel(logging.ERROR)  # warns about Python tags, which zoo configs have
    items = pairs(overrides)
    torch.manual_seed(0)
    return _lazy(path, items) if path.suffix == ".py" else _yaml(path, items)


def find(config: str) -> Path:
    """The file of a config: a path, or a name in detectron2's model zoo. Raises InputError if it is neither."""
    path = Path(config)
    if path.suffix not in (".yaml", ".yml", ".py"):
        raise InputError(f"{config}: a detectron2 config is a .yaml file or a LazyConfig .py")
    if path.is_file():
        return path
    try:
        return Path(model_zoo.get_config_file(config))
    except RuntimeError:
        raise InputError(f"{config}: no such file, and not in detectron2's model zoo") from None


def pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """KEY VALUE and KEY=VALUE items as pairs. Raises InputError for a key without a value."""
    found, items = [], iter(overrides)
    for item in items:
        key, sign, value = item.partition("=")
        if not sign:
            try:
                value = next(items)
            except StopIteration:
                raise InputError(f"{item}: a key of the config without a value") from None
        found.append((key, value))
    return found


def _yaml(path: Path, items: list[tuple[str, str]]) -> Source:
    cfg = get_cfg()
    point_rend.add_pointrend_config(cfg)  # keys of a project; its configs do not say that they need them
    try:
        cfg.merge_from_file(str(path))
        cfg.merge_from_list([part for item in items for part in item])
    except Exception as error:  # yaml, key and type errors have no common kind
        raise InputError(f"{path}: {_said(error)}") from error
    cfg.MODEL.DEVICE = "cpu"
    try:
        return Source(cfg, build_model(cfg).eval())
    except Exception as error:
        raise InputError(f"{path}: the model cannot be built: {_said(error)}") from error


def _lazy(path: Path, items: list[tuple[str, str]]) -> Source:
    try:
        cfg = LazyConfig.load(str(path))
        for key, _ in items:  # what a node does not take is refused by whom it builds
            if OmegaConf.select(cfg, key.rpartition(".")[0] or key, default=_ABSENT) is _ABSENT:
                raise KeyError(f"Non-existent key: {key}")
        cfg = LazyConfig.apply_overrides(cfg, [f"{key}={value}" for key, value in items])
    except Exception as error:
        raise InputError(f"{path}: {_said(error)}") from error
    if cfg.get("model") is None:
        raise InputError(f"{path}: a LazyConfig without a `model`")
    try:
        model = instantiate(cfg.model)
    except Exception as error:
        raise InputError(f"{path}: the model cannot be built: {_said(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"{path}: its `model` is a {type(model).__name__} and no torch module")
    return Source(cfg, model.eval())


def _said(error: Exception) -> str:
    """An error's words in one short line, without what it dumps after them."""
    words = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip() or type(error).__name__
    line = words.splitlines()[0]
    return line if len(line) < 300 else f"{line[:300]}..."

"""The baseline of surgery: load a model with the `onnx` package and save it.

Imports nothing of onnxgraft, whose memory would count as the baseline's: child.py loads it from its file.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx


def load_save(source: str, folder: str) -> Callable[[], None]:
    """What loads the file `source` and saves it into `folder`."""
    return lambda: onnx.save(onnx.load(source), f"{folder}/model.onnx")

"""Calibration: streaming statistics of activations, their files, and the scales that follow from them."""

from onnxgraft.quantization.calibration import Calibration, Key, merge_files
from onnxgraft.quantization.histogram import Histogram
from onnxgraft.quantization.methods import METHODS
from onnxgraft.quantization.provider import Provider

__all__ = ["METHODS", "Calibration", "Histogram", "Key", "Provider", "merge_files"]

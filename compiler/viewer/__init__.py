"""Shows what passes did: in a terminal, and as one self-contained web page."""

from onnxgraft.viewer.drawn import draw_detections
from onnxgraft.viewer.recorder import Recorder
from onnxgraft.viewer.report import PAGE, write_report

__all__ = ["PAGE", "Recorder", "draw_detections", "write_report"]

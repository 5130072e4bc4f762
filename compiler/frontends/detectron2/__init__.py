"""Exports detectron2 models to ONNX; needs torch and detectron2."""

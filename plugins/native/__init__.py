"""Plugin ops in standard ONNX operators."""

"""TensorRT and TensorRT for RTX: one builder over two modules that differ a little."""

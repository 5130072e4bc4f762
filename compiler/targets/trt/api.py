"""Every name of NVIDIA's Python bindings that the builder and the runner use: what a release must have for them to work.

A test reads their sources and holds this list complete; `python -m campaigns.bindings` holds it against real bindings.
"""

from __future__ import annotations

USED: dict[str, tuple[str, ...]] = {
    "": ("init_libnvinfer_plugins",),
    "Builder": ("create_network", "create_builder_config", "build_serialized_network"),
    "BuilderFlag": ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRIP_PLAN", "REFIT", "TF32"),
    "HardwareCompatibilityLevel": ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
    "IBuilderConfig": (
        "set_memory_pool_limit", "builder_optimization_level", "profiling_verbosity", "set_flag", "clear_flag",
        "hardware_compatibility_level", "create_timing_cache", "set_timing_cache", "get_timing_cache",
    ),
    "ICudaEngine": (
        "create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype",
        "get_tensor_shape",
    ),
    "IExecutionContext": ("set_tensor_address", "execute_async_v3"),
    "IHostMemory": ("nbytes",),
    "ILayer": ("name", "metadata"),
    "ILogger": ("log",),
    "INetworkDefinition": ("num_layers", "get_layer"),
    "ITimingCache": ("serialize",),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "ParserError": ("code", "desc", "func", "node_name", "node_operator", "local_function_stack"),
    "ProfilingVerbosity": ("NONE", "LAYER_NAMES_ONLY", "DETAILED"),
    "Runtime": ("deserialize_cuda_engine",),
    "TensorIOMode": ("INPUT",),
}  # fmt: skip
"""Members by class; "" is the module."""

RTX_ONLY = {"ComputeCapability": ("__members__",), "IBuilderConfig": ("num_compute_capabilities", "set_compute_capability")}
"""Members that TensorRT for RTX alone has."""

PYTHON = ("nptype", "__version__")
"""Of the Python around the extension module."""


def names() -> list[str]:
    """All of USED as "Class.member", those of the module without a class."""
    return [f"{kind}.{member}".lstrip(".") for kind, members in USED.items() for member in members]

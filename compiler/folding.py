"""Constant folding and shape inference over a graph whose weights stay on disk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort

from onnxgraft.errors import Refusal
from onnxgraft.graph import IR_VERSION, Graph, is_large, node_inputs

FOLD_BYTES = 4096  # larger results (anchors, grids) stay as nodes: a pass of their own shows what becomes of them
_ROUNDS = 120  # a GroupNorm network needs one round per norm
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


def settle(graph: Graph, shapes: bool = True) -> dict[str, int]:
    """Fold, infer and drop until nothing changes. Returns what was done how often.

    Args:
        graph: rewritten in place.
        shapes: also fold shapes, which ties the graph to the size of its input.
    """
    done: dict[str, int] = {}
    for attempt in range(_ROUNDS):
        counts = {
            "constant nodes": constants_to_initializers(graph),
            "identities": remove_identities(graph),
        }
        if shapes or attempt == 1:  # once folding has made the first shapes known; it is slow to repeat
            infer_shapes(graph, propagate=shapes and attempt == 0)
        counts["folded"] = fold(graph, shapes=shapes)
        counts["inlined branches"] = inline_constant_ifs(graph)
        graph.cleanup()
        for key, count in counts.items():
            done[key] = done.get(key, 0) + count
        if not any(counts.values()) and (shapes or attempt >= 1):
            return done
    raise Refusal(f"folding did not come to rest in {_ROUNDS} rounds")


def infer_shapes(graph: Graph, propagate: bool = False) -> None:
    """Set dtype and shape of every variable that ONNX shape inference can determine.

    `propagate` lets it follow values of shape tensors too, which is slow once anchors are constants.

    Variables of plugin ops keep the types their pass gave them. Raises Refusal on contradictory shapes.
    """
    model = graph.skeleton().model
    try:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=propagate)
    except onnx.shape_inference.InferenceError as error:
        raise Refusal(f"shape inference failed: {' '.join(str(error).split())[:300]}") from None
    tensors = graph.gs.tensors()
    for info in [*inferred.graph.value_info, *inferred.graph.output]:
        tensor = tensors.get(info.name)
        if not isinstance(tensor, gs.Variable) or not info.type.HasField("tensor_type"):
            continue
        kind = info.type.tensor_type
        if kind.elem_type:
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.HasField("shape"):
            tensor.shape = [
                d.dim_value if d.HasField("dim_value") else (d.dim_param or f"{info.name}_{i}")
                for i, d in enumerate(kind.shape.dim)
            ]


def forget_shapes(graph: Graph) -> None:
    """Drop every inferred shape, so that inference starts from the inputs again."""
    for node in graph.gs.nodes:
        for tensor in node.outputs:
            tensor.shape = None


def _sweep(graph: Graph) -> None:
    """Drop nodes that lost all their outputs, so that no tensor counts them among its consumers."""
    for node in graph.gs.nodes:
        if not node.outputs:
            node.inputs.clear()
    graph.gs.nodes[:] = [node for node in graph.gs.nodes if node.outputs]


def is_static(tensor: gs.Tensor) -> bool:
    return tensor.shape is not None and all(isinstance(d, (int, np.integer)) for d in tensor.shape)


def constants_to_initializers(graph: Graph) -> int:
    """Turn Constant nodes of the main graph into constants. Returns how many."""
    made = 0
    for node in graph.gs.nodes:
        if node.op != "Constant" or not node.outputs:
            continue
        ((key, value),) = node.attrs.items()
        array = np.asarray(value.values if isinstance(value, gs.Constant) else value)
        if key in ("value_float", "value_floats"):
            array = array.astype(np.float32)
        elif key in ("value_int", "value_ints"):
            array = array.astype(np.int64)
        output = node.outputs[0]
        node.outputs.clear()
        output.to_constant(array)
        made += 1
    _sweep(graph)
    return made


def evaluate(
    graph: Graph, outputs: Sequence[gs.Tensor], feeds: dict[str, np.ndarray] | None = None
) -> list[np.ndarray]:
    """Run the part of the graph between `feeds` (by tensor name) and `outputs` in ONNX Runtime.

    Raises:
        Refusal: when the part needs a graph input that is not fed, or ONNX Runtime cannot run it.
    """
    feeds = feeds or {}
    nodes: list[gs.Node] = []
    seen: set[int] = set()
    constants: dict[str, gs.Constant] = {}
    stack: list[tuple[gs.Tensor, bool]] = [(t, False) for t in outputs]
    while stack:
        tensor, done = stack.pop()
        if tensor.name in feeds:
            continue
        if isinstance(tensor, gs.Constant):
            constants[tensor.name] = tensor
            continue
        if not tensor.inputs:
            if tensor.name:
                raise Refusal(f"tensor {tensor.name!r} depends on an input that is not known offline")
            continue
        node = tensor.inputs[0]
        if done:
            if id(node) not in seen:
                seen.add(id(node))
                nodes.append(node)
            continue
        if id(node) in seen:
            continue
        stack.append((tensor, True))
        stack += [(t, False) for t in node_inputs(node)]
    part = gs.Graph(
        nodes=nodes,
        inputs=[gs.Variable(name, array.dtype, list(array.shape)) for name, array in feeds.items()],
        outputs=[gs.Variable(t.name, t.dtype) for t in outputs if not isinstance(t, gs.Constant)],
        opset=graph.gs.opset,
    )
    proto = onnx.GraphProto(name="part")
    exporter = gs.exporters.onnx_exporter.OnnxExporter
    proto.node.extend(exporter.export_node(node) for node in nodes)
    proto.input.extend(exporter.export_value_info_proto(t, True) for t in part.inputs)
    proto.output.extend(onnx.ValueInfoProto(name=t.name) for t in part.outputs)
    for constant in constants.values():
        proto.initializer.append(onnx.numpy_helper.from_array(np.array(constant.values), constant.name))
    model = onnx.helper.make_model(
        proto, ir_version=IR_VERSION, opset_imports=[onnx.helper.make_opsetid("", graph.gs.opset)]
    )
    computed: dict[str, np.ndarray] = {}
    if proto.output:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            names = [o.name for o in proto.output]
            computed = dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise Refusal(f"cannot evaluate offline: {' '.join(str(error).split())[:200]}") from None
    return [np.array(t.values) if isinstance(t, gs.Constant) else computed[t.name] for t in outputs]


def fold(graph: Graph, limit: int = FOLD_BYTES, shapes: bool = True) -> int:
    """Replace every small tensor that does not depend on the input by its value. Returns how many."""
    shaped = _fold_shapes(graph) if shapes else 0
    known: set[int] = set()
    foldable: list[gs.Node] = []
    for node in graph.gs.nodes:
        if node.domain or node.op in _RANDOM or not node.outputs:
            continue
        if any(isinstance(value, gs.Graph) for value in node.attrs.values()):
            continue
        if all((isinstance(t, gs.Constant) and not is_large(t)) or id(t) in known or not t.name for t in node.inputs):
            known.update(id(t) for t in node.outputs)
            foldable.append(node)
    wanted = [t for node in foldable for t in node.outputs if t.name and _small(t, limit)]
    if not wanted:
        return shaped
    values = evaluate(graph, wanted)
    folded = 0
    kept = {id(t) for t in graph.gs.outputs}
    for tensor, value in zip(wanted, values, strict=True):
        if value.nbytes > limit or id(tensor) in kept:
            continue
        tensor.inputs.clear()
        tensor.to_constant(value)
        folded += 1
    _sweep(graph)
    return shaped + folded


def _small(tensor: gs.Tensor, limit: int) -> bool:
    if not is_static(tensor) or tensor.dtype is None:
        return True
    return int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize <= limit


def _fold_shapes(graph: Graph) -> int:
    folded = 0
    kept = {id(t) for t in graph.gs.outputs}
    for node in graph.gs.nodes:
        if node.op != "Shape" or node.domain or not node.outputs or not is_static(node.inputs[0]):
            continue
        if id(node.outputs[0]) in kept:
            continue
        start, end = node.attrs.get("start", 0), node.attrs.get("end")
        shape = list(node.inputs[0].shape)[start:end]
        output = node.outputs[0]
        node.outputs.clear()
        output.to_constant(np.array(shape, np.int64))
        folded += 1
    _sweep(graph)
    return folded


def remove_identities(graph: Graph) -> int:
    """Let consumers read the input of Identity, of Concat of one, and of Casts that change nothing. Returns the count."""
    removed = 0
    graph_outputs = {id(t) for t in graph.gs.outputs}
    for node in graph.gs.nodes:
        if node.domain or len(node.inputs) != 1 or len(node.outputs) != 1:
            continue
        source, output = node.inputs[0], node.outputs[0]
        same = node.op in ("Identity", "Concat") or (
            node.op == "Cast"
            and source.dtype is not None
            and not isinstance(source.dtype, int)
            and np.dtype(source.dtype) == onnx.helper.tensor_dtype_to_np_dtype(int(node.attrs["to"]))
        )
        if not same or id(output) in graph_outputs:
            continue
        graph.replace(output, source)
        node.outputs.clear()
        removed += 1
    _sweep(graph)
    return removed


def inline_constant_ifs(graph: Graph) -> int:
    """Replace If nodes whose condition is known by the branch they take. Returns how many."""
    inlined = 0
    for node in list(graph.gs.nodes):
        if node.op != "If" or not isinstance(node.inputs[0], gs.Constant):
            continue
        branch = node.attrs["then_branch" if bool(np.asarray(node.inputs[0].values).item()) else "else_branch"]
        position = graph.gs.nodes.index(node)
        for tensor in list(branch._local_tensors().values()):
            tensor.name = graph.fresh(tensor.name)
        outputs = list(node.outputs)
        node.outputs.clear()
        node.inputs.clear()
        graph.gs.nodes[position : position + 1] = branch.nodes
        for old, new in zip(outputs, branch.outputs, strict=True):
            if any(t is old for t in graph.gs.outputs):
                if not new.inputs:
                    raise Refusal("an If whose branch is a constant feeds a graph output", node.name)
                producer = new.inputs[0]
                index = next(i for i, t in enumerate(producer.outputs) if t is new)
                graph.replace(new, old)
                producer.outputs[index] = old
            else:
                graph.replace(old, new)
        inlined += 1
    if inlined:
        graph.name_nodes()
    return inlined

"""ONNX's operators in groups: what passes and analyses may know of an operator without looking inside it."""

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum"})
"""Give the same for their operands in any order."""

RESHAPING = frozenset({"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast"})
"""Keep every value, in another shape, order or type."""

SELECTING = frozenset({"Gather", "GatherND", "GatherElements", "Slice", "Split", "Expand"})
"""Give some of the values of their first input, or repeat them."""

SAME_VALUES = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity"})
"""Give values of their first input and no others, so that what lies on a grid stays on it."""

LINEAR = frozenset({"Gemm", "MatMul"})
"""Multiply rows by a matrix."""

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
"""Convolve a map with a kernel, without offsets."""

WEIGHTED = CONVOLUTIONS | LINEAR
"""Multiply by weights."""

WITH_GRAPHS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Of ONNX's own operators, these alone hold subgraphs."""

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Give another result each time."""

DATA_DEPENDENT = frozenset({
    "NonZero", "Unique", "Compress", "NonMaxSuppression", "SplitToSequence", "SequenceConstruct", "SequenceEmpty",
    "SequenceInsert", "SequenceErase", "SequenceAt", "ConcatFromSequence", "Optional", "OptionalGetElement",
})  # fmt: skip
"""Give as many values as those of their inputs decide, and no more than a few times what they get."""

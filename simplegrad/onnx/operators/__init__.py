"""Rules for ONNX operators, a file per family; `find` looks one up among all of them."""

from simplegrad.onnx.operators import (
    control,
    detection,
    elementwise,
    gathering,
    neural,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resizing,
    sampling,
    shapes,
    signal,
    sorting,
    text,
)
from simplegrad.onnx.registry import find

__all__ = [
    "control",
    "detection",
    "elementwise",
    "find",
    "gathering",
    "neural",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reductions",
    "resizing",
    "sampling",
    "shapes",
    "signal",
    "sorting",
    "text",
]

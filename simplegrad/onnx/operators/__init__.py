"""Rules for ONNX operators, a file per family; importing this package registers them all."""

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

__all__ = [
    "control",
    "detection",
    "elementwise",
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

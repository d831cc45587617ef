"""Rules for ONNX operators, a file per family; importing this package registers them all."""

from simplegrad.onnx.operators import (
    control,
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
)

__all__ = [
    "control",
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
]

"""ONNX models: `load` runs one over tensors, `export` writes one from a function over tensors.

Needs the package `onnx` (``pip install onnx``).
"""

from __future__ import annotations

from simplegrad.onnx.export import export
from simplegrad.onnx.model import Model, load

__all__ = ["Model", "export", "load"]

"""The node tests that the package `onnx` carries: which are within our types, and how one is run."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import simplegrad as sg
import simplegrad.onnx as sgx
from simplegrad.onnx.tensors import DTYPES

FAILURES = Path(__file__).with_name("node_failures.txt")


@functools.cache
def cases() -> list[Any]:
    """All cases whose inputs and outputs are tensors of a supported type, by any opset."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return [case for case in found if _supported(case.model)]


def _supported(model: Any) -> bool:
    for info in [*model.graph.input, *model.graph.output]:
        if info.type.WhichOneof("value") != "tensor_type":
            return False
        if info.type.tensor_type.elem_type not in DTYPES:
            return False
    return True


def opset(case: Any) -> int | None:
    versions = [o.version for o in case.model.opset_import if o.domain in ("", "ai.onnx")]
    return versions[0] if versions else None


def _array(value: Any) -> np.ndarray:
    import onnx

    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    return np.asarray(value)


def run(case: Any, path: Path) -> None:
    """Run one case on the device in force; whatever is wrong is raised."""
    sg.random.seed(0)
    path.write_bytes(case.model.SerializeToString())
    model = sgx.load(path)
    for inputs, outputs in case.data_sets:
        names = [info.name for info in case.model.graph.input]
        got = model(**dict(zip(names, map(_array, inputs), strict=True)))
        got = got if isinstance(got, tuple) else (got,)
        assert len(got) == len(outputs)
        for tensor, wanted in zip(got, map(_array, outputs), strict=True):
            if wanted.dtype.name == "bfloat16":
                assert tensor.dtype is sg.bfloat16
                wanted = wanted.astype(np.float32)
            actual = tensor.numpy()
            assert actual.dtype == wanted.dtype
            assert actual.shape == wanted.shape
            np.testing.assert_allclose(actual, wanted, rtol=case.rtol, atol=case.atol)


def listed() -> dict[str, str]:
    """The cases that are known to fail, with the reason."""
    reason, found = "", {}
    for line in FAILURES.read_text().splitlines():
        if line.startswith("# ") or not line.strip():
            continue
        if line.startswith("    "):
            found[line.strip()] = reason
        else:
            reason = line.rstrip(":")
    return found

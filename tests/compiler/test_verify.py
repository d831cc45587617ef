"""The verifier of kernels: what it lets pass and what it must not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from simplegrad import ops
from simplegrad.compiler.ir.index import Guard, Index, Var
from simplegrad.compiler.ir.kernel import LOAD, REDUCED, Kernel, Output, Reduction, Split, Value
from simplegrad.compiler.ir.verify import verify_kernel
from simplegrad.dtypes import bool_, float32, int64
from simplegrad.errors import VerifyError

sys.path.insert(0, __file__.rpartition("/")[0])
import kernels

CASES = kernels.cases()


@pytest.mark.parametrize("name", CASES)
def test_good_kernels_pass(name: str) -> None:
    verify_kernel(CASES[name][0])


def _store(kernel: Kernel, value: Value, index: Index | None = None) -> Kernel:
    old = kernel.outputs[0]
    return replace(kernel, outputs=(Output(old.arg, value, index or old.index),))


def _unbound(kernel: Kernel) -> Kernel:
    return _store(kernel, kernel.outputs[0].value, Index.of(Var("nowhere", 3)))


def _outside(kernel: Kernel) -> Kernel:
    return _store(kernel, kernel.outputs[0].value, Index.of(kernel.outer[0]) + 1)


def _outside_load(kernel: Kernel) -> Kernel:
    index = Index.of(kernel.outer[0]) * 9 + Index.of(kernel.reduce[0]) * 2
    value = Value(LOAD, float32, arg=0, index=index)
    return replace(kernel, reductions=(Reduction(ops.SUM, value, float32),))


def _guard_too_wide(kernel: Kernel) -> Kernel:
    index = Index.of(kernel.outer[0]) * 9 + Index.of(kernel.reduce[0]) + -2
    value = Value(LOAD, float32, arg=0, index=index, guards=(Guard(index, -1, 36),))
    return replace(kernel, reductions=(Reduction(ops.SUM, value, float32),))


def _wrong_dtype(kernel: Kernel) -> Kernel:
    value = kernel.outputs[0].value
    return _store(kernel, Value("apply", float32, op=ops.LESS, srcs=(value, value)))


def _wrong_kind(kernel: Kernel) -> Kernel:
    value = kernel.outputs[0].value
    return _store(kernel, Value("apply", float32, op=ops.AND, srcs=(value, value)))


def _mixed(kernel: Kernel) -> Kernel:
    other = Value("const", int64, number=1)
    value = kernel.outputs[0].value
    return _store(kernel, Value("apply", float32, op=ops.ADD, srcs=(value, other)))


def _full_level(kernel: Kernel) -> Kernel:
    return _store(kernel, kernel.reductions[0].value)


def _later_reduction(kernel: Kernel) -> Kernel:
    later = Value(REDUCED, float32, arg=0)
    return replace(kernel, reductions=(Reduction(ops.SUM, later, float32),))


def _no_argument(kernel: Kernel) -> Kernel:
    output = kernel.outputs[0]
    return replace(kernel, outputs=(Output(7, output.value, output.index),))


def _store_to_input(kernel: Kernel) -> Kernel:
    output = kernel.outputs[0]
    return replace(kernel, outputs=(Output(0, output.value, output.index),))


def _bad_split(kernel: Kernel) -> Kernel:
    return replace(kernel, split=Split(kernel.reduce[0], kernel.outer[0], 2))


def _sum_of_bool(kernel: Kernel) -> Kernel:
    value = Value("guard", bool_)
    return replace(kernel, reductions=(Reduction(ops.SUM, value, float32),))


FAULTS: list[Callable[[Kernel], Kernel]] = [
    _unbound, _outside, _outside_load, _guard_too_wide, _wrong_dtype, _wrong_kind, _mixed,
    _full_level, _later_reduction, _no_argument, _store_to_input, _bad_split, _sum_of_bool,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__[1:])
def test_faults_are_found(fault: Callable[[Kernel], Kernel]) -> None:
    kernel, _ = kernels.reduced(ops.SUM, (4, 9), (1,))
    verify_kernel(kernel)
    with pytest.raises(VerifyError, match="kernel sum: "):
        verify_kernel(fault(kernel))

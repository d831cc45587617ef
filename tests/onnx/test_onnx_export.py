"""Export: every operation, in every dtype it takes, against onnxruntime; whole models in test_models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
import simplegrad.onnx as sgx
from simplegrad import Tensor, dtypes, nn, ops
from simplegrad.graph import build
from simplegrad.graph.node import make
from simplegrad.onnx.writer import RULES
from simplegrad.tensor.core import lift

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

REFUSED = {"buffer", "random_bits", "permute_index", "box_muller"}
FLOATS = (dtypes.float32, dtypes.float64, dtypes.float16)
INTS = (dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64)
UNSIGNED = (dtypes.uint8, dtypes.uint16, dtypes.uint32, dtypes.uint64)
BY_KIND = {"f": FLOATS, "i": INTS, "u": UNSIGNED, "b": (dtypes.bool_,)}


def run(path: Path, *arrays: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(onnx.load(path), full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options)
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


def agree(
    fn: Callable[..., Any], arrays: list[np.ndarray], path: Path, rtol: float, atol: float
) -> None:
    """The engine, onnxruntime on the exported file, and the file loaded again say the same."""
    with np.errstate(all="ignore"):
        wanted = fn(*[sg.asarray(a) for a in arrays])
        sgx.export(fn, arrays, path)
        loaded = sgx.load(path)(*arrays)
        wanted, loaded = wanted.numpy(), loaded.numpy()
    [got] = run(path, *arrays)
    for other in (got, loaded):
        assert other.dtype == wanted.dtype
        assert other.shape == wanted.shape
        np.testing.assert_allclose(other, wanted, rtol=rtol, atol=atol)


def numbers(dtype: Any, shape: tuple[int, ...], low: float, high: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "ui":
        return rng.integers(
            max(low, dtype.low, -100), min(high, dtype.high, 100), shape, endpoint=True
        ).astype(dtype.numpy)
    return (rng.random(shape) * (high - low) + low).astype(dtype.numpy)


RANGES: dict[str, tuple[float, float]] = {
    "log": (0.1, 9), "log2": (0.1, 9), "log1p": (-0.9, 3), "sqrt": (0, 9), "rsqrt": (0.1, 9),
    "reciprocal": (0.1, 9), "asin": (-1, 1), "acos": (-1, 1), "atanh": (-0.9, 0.9),
    "acosh": (1, 9), "pow": (0, 4), "shift_left": (0, 40), "shift_right": (0, 40),
}  # fmt: skip
TOLERANCES = {
    dtypes.float16: (4e-3, 1e-3),
    dtypes.float32: (1e-5, 1e-6),
    dtypes.float64: (1e-12, 1e-12),
}
ELEMENTWISE = sorted(
    (op.name, d.name)
    for op in ops.of_kind(ops.ELEMENTWISE)
    if op.name not in REFUSED | {"cast", "where"}
    for kind in op.kinds
    for d in BY_KIND[kind]
)


@pytest.mark.parametrize(("name", "dtype"), ELEMENTWISE)
def test_elementwise(name: str, dtype: str, tmp_path: Path) -> None:
    op, d = ops.OPS[name], dtypes.of(dtype)
    low, high = RANGES.get(name, (-4, 4) if d.is_float else (-100, 100))
    shapes = [(3, 4), (4,)][: op.arity]
    arrays = [numbers(d, s, low, high, i) for i, s in enumerate(shapes)]

    def fn(*tensors: Tensor) -> Tensor:
        nodes = [t._node for t in tensors]
        return lift(build.apply(op, *nodes))

    rtol, atol = TOLERANCES.get(d, (0, 0))
    if d is dtypes.float64 and op in sgx.formulas.ON_FLOAT32:
        rtol, atol = TOLERANCES[dtypes.float32]
    with sg.device("numpy"):
        agree(fn, arrays, tmp_path / "m.onnx", rtol, atol)


EDGES = np.array(
    [0.0, -0.0, 1e-8, -1e-8, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.5, -7.25], np.float32
)


@pytest.mark.parametrize("name", ["expm1", "log1p", "trunc", "isfinite", "isnan", "isinf", "rsqrt"])
def test_edges_of_formulas(name: str, tmp_path: Path) -> None:
    with sg.device("numpy"):
        agree(lambda x: getattr(x, name)(), [EDGES], tmp_path / "m.onnx", 1e-6, 0)


@pytest.mark.parametrize("name", ["hypot", "atan2", "maximum", "minimum"])
def test_edges_of_pairs(name: str, tmp_path: Path) -> None:
    a, b = (x.reshape(-1) for x in np.meshgrid(EDGES, EDGES))
    finite = np.isfinite(a) | np.isfinite(b)  # atan2 of two infinities is a quarter in C alone
    with sg.device("numpy"):
        agree(
            lambda x, y: getattr(x, name)(y), [a[finite], b[finite]], tmp_path / "m.onnx", 1e-6, 0
        )


@pytest.mark.parametrize("name", ["floor_divide", "remainder"])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32"])
def test_division_rounds_down(name: str, dtype: str, tmp_path: Path) -> None:
    d = dtypes.of(dtype)
    a, b = np.meshgrid(np.arange(-7, 8), [-3, -2, 2, 3, 0][: 5 if d.kind != "f" else 4])
    arrays = (
        [x.astype(d.numpy) for x in (np.abs(a), np.abs(b))]
        if d.kind == "u"
        else [x.astype(d.numpy) for x in (a, b)]
    )
    with sg.device("numpy"):
        agree(lambda x, y: getattr(x, name)(y), arrays, tmp_path / "m.onnx", 0, 0)


X = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 11


def recurrent(make: Any, x: Tensor, **options: Any) -> Any:
    layer, numbers = make(2, 3, **options), np.random.default_rng(4)
    own = {n: numbers.standard_normal(t.shape) for n, t in layer.state_dict().items()}
    layer.load_state_dict({n: a.astype(np.float32) for n, a in own.items()})
    return layer(x)


OTHERS: dict[str, list[tuple[Callable[..., Any], list[np.ndarray]]]] = {
    "cast": [(lambda x: x.cast(dtypes.int32), [X * 0.7]), (lambda x: x.cast(dtypes.bool_), [X]),
             (lambda x: x.cast(dtypes.float64), [np.arange(5)])],
    "where": [(lambda c, a, b: sg.where(c, a, b), [X > 0, X, X[0]]),
              (lambda c: c.where(1, 0), [X > 0]),
              (lambda c, a: sg.where(c, a, ~a), [X > 0, X > 3])],
    "sum": [(lambda x: x.sum((0, 2)), [X]), (lambda x: x.sum(), [X > 0]), (lambda x: x.sum(1), [X.astype(np.uint8)])],
    "prod": [(lambda x: x.prod(1), [X / 9])],
    "max": [(lambda x: x.max(1), [X]), (lambda x: x.any(1), [X > 3]), (lambda x: x.max(0), [X.astype(np.int16)])],
    "min": [(lambda x: x.min((1, 2), keepdims=True), [X]), (lambda x: x.all(0), [X > 3])],
    "argmax": [(lambda x: x.argmax(1), [-X]), (lambda x: x.argmax(), [X])],
    "argmin": [(lambda x: x.argmin(2), [X.astype(np.uint16)])],
    "reshape": [(lambda x: x.reshape(4, -1), [X]), (lambda x: x.reshape(0, 5), [X[:0]])],
    "permute": [(lambda x: x.permute(2, 0, 1), [X])],
    "expand": [(lambda x: x.broadcast_to(5, 2, 3, 4), [X]), (lambda x: x.broadcast_to(3, 4).sum(0), [X[0, 0]])],
    "slice": [(lambda x: x[1:, ::-1, ::2], [X]), (lambda x: x[:, 2::-2, 1:1], [X]), (lambda x: x[..., -1], [X])],
    "pad": [(lambda x: x.pad([(0, 1), (2, 0), (0, 0)], 1.5), [X]),
            (lambda x: x.pad([(1, 1), (0, 0), (0, 0)], True), [X > 0]),
            (lambda x: x.pad([(1, 1), (0, 0), (0, 2)], 7), [X.astype(np.int16)]),
            (lambda x: lift(build.pad(x._node, [(1, 0, 2), (0, 0, 0), (0, 3, 1)], 2.0)), [X])],
    "as_strided": [(lambda x: x.as_strided((5, 2, 3), (2, 1, 4), 1), [X]),
                   (lambda x: x.as_strided((3, 4), (0, -1), 9), [X]),
                   (lambda x: x.as_strided((0, 4), (1, 1)), [X])],
    "einsum": [(lambda x, y: x.einsum("bij,bkj->bik", y), [X, X]), (lambda x, y: x @ y, [X, X.swapaxes(1, 2)]),
               (lambda x, y: x.einsum("bij,jk->bik", y), [X, X[0].T]),
               (lambda x, y: x @ y, [X[0].astype(np.int32), X[0].T.astype(np.int32)]),
               (lambda x, y: x.einsum("bij,bij->", y), [X, X])],
    "take": [(lambda x, i: x.take(i, 1), [X, np.array([[0, 2], [-1, 1]])]),
             (lambda x, i: x.take(i, 2), [X, np.array([3, 0], np.uint8)]),
             (lambda x: x.take([2, 0, 2], 1), [X])],
    "scatter_add": [(lambda i, r: sg.scatter_add(i, r, 4), [np.array([1, 3, 1, 0]), X.reshape(4, 6)]),
                    (lambda i, r: sg.scatter_add(i, r, 4), [np.array([1, 3, 1]), X[0, 0, :3].astype(np.int16)])],
    "scan": [(lambda x: recurrent(nn.GRU, x, bidirectional=True)[0], [X.reshape(3, 4, 2)]),
             (lambda x: recurrent(nn.LSTM, x)[1][1], [X.reshape(3, 4, 2)])],
    "cumsum": [(lambda x: x.cumsum(1), [X]), (lambda x: x.cumsum(0), [X.astype(np.int8)])],
    "const": [(lambda x: x.relu(), [X]), (lambda x: sg.zeros((3,)), [X])],
    "scalar": [(lambda x: x * 2.5 + 1, [X]), (lambda x: sg.full((2, 2), 3.5), [X])],
    "iota": [(lambda x: sg.arange(4) + x.cast(dtypes.int64), [X])],
    "concat": [(lambda x: sg.concat([x, x * 2, x], 1), [X]), (lambda x: sg.stack([x > 0, x < 1]), [X])],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"), [(n, i) for n, c in OTHERS.items() for i in range(len(c))]
)
def test_other_operations(name: str, number: int, tmp_path: Path) -> None:
    fn, arrays = OTHERS[name][number]
    with sg.device("numpy"), sg.no_grad():
        agree(fn, arrays, tmp_path / "m.onnx", 1e-5, 1e-5)


def test_every_operation_has_a_case() -> None:
    cases = {name for name, _ in ELEMENTWISE} | set(OTHERS)
    assert cases == {op.name for op in RULES}
    assert cases | REFUSED == set(ops.OPS)


def test_what_cannot_be_written_is_listed_with_its_lines(tmp_path: Path) -> None:
    x = Tensor(X)
    with pytest.raises(
        sg.UnsupportedOp, match=r"(?s)random_bits: .*test_onnx_export\.py"
    ) as caught:
        sgx.export(
            lambda x: x.dropout(0.5) + sg.random.normal((2, 3, 4)), (x,), tmp_path / "m.onnx"
        )
    assert "box_muller" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_random_parameters_are_weights(tmp_path: Path) -> None:
    with sg.device("numpy"):
        w = sg.random.normal((4, 5)) * 0.1
        path = tmp_path / "m.onnx"
        sgx.export(lambda x: x @ w, (X,), path, parameters={"layer.weight": w}, input_names=["x"])
        [weight] = [i for i in onnx.load(path).graph.initializer if i.name == "layer.weight"]
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), w.numpy())
        np.testing.assert_allclose(run(path, X)[0], X @ w.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fn",
    [lambda x: x * float(x.sum()), lambda x: x[x > 0], lambda x: Tensor(x.numpy())],
    ids=["float", "mask", "numpy"],
)
def test_reading_a_value_is_an_error(fn: Any, tmp_path: Path, device: Any) -> None:
    with pytest.raises(sg.DeviceError, match="may not read values"):
        sgx.export(fn, (Tensor(X),), tmp_path / "m.onnx")


def test_a_chain_longer_than_what_stays_pending(tmp_path: Path) -> None:
    def fn(x: Tensor) -> Tensor:
        for _ in range(1200):
            x = x * 0.999 + 0.001
        return x

    with sg.device("numpy"):
        path = tmp_path / "m.onnx"
        sgx.export(fn, (X,), path)
        assert sum(n.op_type == "Mul" for n in onnx.load(path).graph.node) == 1200
        np.testing.assert_allclose(run(path, X)[0], fn(Tensor(X)).numpy(), rtol=1e-4)
        assert fn(Tensor(X))._node.depth < 1200  # outside of export the chain is computed


def test_the_old_file_stays_where_export_fails(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(sg.SimplegradError):
        sgx.export(lambda x: x.dropout(0.5), (Tensor(X),), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: sgx.export(lambda x: x, Tensor(X), p), "sequence"),
        (lambda p: sgx.export(lambda x: 3, (X,), p), "int"),
        (lambda p: sgx.export(lambda x: x, (X,), p, input_names=["a", "b"]), "do not fit"),
        (
            lambda p: sgx.export(lambda x: x, (X,), p, input_names=["a"], output_names=["a"]),
            "twice",
        ),
        (lambda p: sgx.export(lambda x: (x, x), (X,), p, output_names=["a"]), "1 output names"),
    ],
)
def test_wrong_arguments(call: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(sg.SimplegradError, match=said):
        call(tmp_path / "m.onnx")


def test_names_and_several_outputs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with sg.device("numpy"):
        sgx.export(lambda a, b: {"sum": a + b, "a": a}, (X, X[0]), path, input_names=["in", "b"])
        model = sgx.load(path)
        total, same = model(b=X[0], **{"in": X})
        assert list(model.inputs) == ["in", "b"] and list(model.outputs) == ["sum", "a"]
        np.testing.assert_array_equal(total.numpy(), X + X[0])
        np.testing.assert_array_equal(same.numpy(), X)


def test_broadcasting_stays_implicit(tmp_path: Path) -> None:
    """A bias and a number are written as they are, not spread over the batch."""
    path = tmp_path / "m.onnx"
    bias = Tensor(np.ones(4, np.float32), device="numpy")
    with sg.device("numpy"):
        sgx.export(lambda x: (x + bias) * 2.0, (X,), path)
    assert [n.op_type for n in onnx.load(path).graph.node] == ["Add", "Mul", "Identity"]


CONVOLUTIONS = [
    ({}, (2, 4, 9, 8), (6, 4, 3, 3)), ({"padding": 1, "stride": 2}, (1, 4, 9, 8), (6, 4, 3, 3)),
    ({"padding": "same", "dilation": 2}, (2, 1, 9, 8), (6, 1, 3, 2)), ({"groups": 2}, (2, 4, 9, 8), (6, 2, 1, 3)),
    ({"groups": 4, "padding": 1}, (1, 4, 9, 8), (4, 1, 3, 3)), ({"stride": 3}, (2, 4, 9, 8), (1, 4, 1, 1)),
    ({"padding": (0, 1)}, (1, 1, 5, 5), (1, 1, 5, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("options", "shape", "kernel"), CONVOLUTIONS)
def test_a_convolution_is_one_conv(options: Any, shape: Any, kernel: Any, tmp_path: Path) -> None:
    x, w = (numbers(dtypes.float32, s, -1, 1, i) for i, s in enumerate((shape, kernel)))
    path = tmp_path / "m.onnx"
    with sg.device("numpy"):
        agree(lambda x, w: x.conv2d(w, **options), [x, w], path, 1e-5, 1e-5)
    operators = [n.op_type for n in onnx.load(path).graph.node]
    assert operators.count("Conv") == 1
    assert set(operators) <= {"Conv", "Reshape", "Identity"}


POOLS = [
    (lambda x: x.maxpool2d((2, 2), stride=2), "MaxPool"), (lambda x: x.maxpool2d((3, 2), 1, 2), "MaxPool"),
    (lambda x: x.maxpool2d((2, 2), dilation=2, padding=1), "MaxPool"), (lambda x: x.avgpool2d((2, 3), 1, 2), "AveragePool"),
    (lambda x: x.maxpool2d((3, 1), padding=1), "Gather"),  # whole windows of padding
    (lambda x: x.window_view((2, 2)).sum((-1, -2)), "AveragePool"), (lambda x: x.window_view((2, 2)).max(-1), "Gather"),
    (lambda x: x.as_strided((2, 3, 4, 7, 2, 2), (216, 72, 16, 1, 8, 1)).max((4, 5)), "MaxPool"),
    (lambda x: x.as_strided((2, 3, 4, 4, 2, 2), (216, 72, 9, 1, 8, 2)).max((4, 5)), "Gather"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(POOLS)))
def test_a_pool_is_one_operator(number: int, tmp_path: Path) -> None:
    fn, operator = POOLS[number]
    path = tmp_path / "m.onnx"
    with sg.device("numpy"):
        agree(fn, [numbers(dtypes.float32, (2, 3, 9, 8), -1, 1, 0)], path, 1e-5, 1e-6)
    assert operator in [n.op_type for n in onnx.load(path).graph.node]


PRODUCTS = [
    ("ij,jk->ik", [], (3, 4), (4, 5)), ("ij,kj->ik", ["Transpose"], (3, 4), (5, 4)),
    ("ji,jk->ik", ["Transpose"], (4, 3), (4, 5)), ("abj,kj->abk", ["Transpose"], (2, 3, 4), (5, 4)),
    ("bhij,bhkj->bhik", ["Transpose"], (2, 3, 4, 5), (2, 3, 6, 5)), ("bij,bjk->bik", [], (2, 3, 4), (2, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("subscripts", "more", "a", "b"), PRODUCTS)
def test_a_matrix_product_is_one_matmul(
    subscripts: str, more: Any, a: Any, b: Any, tmp_path: Path
) -> None:
    arrays = [numbers(dtypes.float32, s, -1, 1, i) for i, s in enumerate((a, b))]
    path = tmp_path / "m.onnx"
    with sg.device("numpy"):
        agree(lambda x, y: x.einsum(subscripts, y), arrays, path, 1e-5, 1e-6)
    assert [n.op_type for n in onnx.load(path).graph.node] == [*more, "MatMul", "Identity"]


@pytest.mark.parametrize(
    "subscripts", ["ij,jk->ki", "bij,bjk->ibk", "bij,bjk->ik", "abij,abj->abi", "aij,ajk->aij"]
)
def test_other_contractions(subscripts: str, tmp_path: Path) -> None:
    terms = subscripts.split("->")[0].split(",")
    extents = dict(zip("abijk", (2, 3, 4, 5, 6), strict=True))
    arrays = [
        numbers(dtypes.float32, tuple(extents[x] for x in t), -1, 1, i) for i, t in enumerate(terms)
    ]
    with sg.device("numpy"):
        agree(lambda x, y: x.einsum(subscripts, y), arrays, tmp_path / "m.onnx", 1e-5, 1e-5)


def test_a_made_up_operation_is_refused(tmp_path: Path) -> None:
    odd = ops.Op("odd", ops.ELEMENTWISE)
    with pytest.raises(sg.UnsupportedOp, match="odd"):
        sgx.export(lambda x: lift(make(odd, (x._node,))), (X,), tmp_path / "m.onnx")

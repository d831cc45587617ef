"""Recurrences from files: one SCAN whatever their length, and onnxruntime's numbers."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
import simplegrad.onnx as sgx
from simplegrad import Tensor, nn, ops
from simplegrad.graph.node import topological

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
helper = onnx.helper

RNG = np.random.default_rng(3)
HIDDEN, WIDTH, BATCH, TIME = 4, 3, 2, 5


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def saved(
    path: Path, nodes: list[Any], inputs: dict[str, list[Any]], weights: dict[str, np.ndarray],
    outputs: list[str],
) -> Path:  # fmt: skip
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "recurrent", [info(n, 1, s) for n, s in inputs.items()],
        [info(n, 1, None) for n in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    return path


def scans(results: Any) -> int:
    """Return how many recurrences results stand on; anything unrolled is an error."""
    order = topological([r._node for r in results])
    assert len(order) < 250
    return sum(node.op is ops.SCAN for node in order)


def agrees(path: Path, *arrays: np.ndarray, count: int) -> Any:
    """Compare with onnxruntime; the graph holds `count` SCANs."""
    session = ort.InferenceSession(str(path))
    names = [i.name for i in session.get_inputs()]
    wanted = session.run(None, dict(zip(names, arrays, strict=True)))
    model = sgx.load(path)
    got = model(*arrays)
    got = got if isinstance(got, tuple) else (got,)
    assert scans(got) == count
    for mine, right in zip(got, wanted, strict=True):
        np.testing.assert_allclose(mine.numpy(), right, rtol=1e-4, atol=1e-5)
    return model


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "RNN": [{}, {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}],
    "GRU": [
        {}, {"linear_before_reset": 1},
        {"clip": 0.4, "activations": ["HardSigmoid", "LeakyRelu"], "activation_alpha": [0.3, 0.2]},
    ],
    "LSTM": [{}, {"clip": 0.5, "input_forget": 1}, {"peepholes": 1}],
}  # fmt: skip


CASES = [(op, i) for op, options in OPTIONS.items() for i in range(len(options)) for _ in range(3)]
WAYS = itertools.cycle([("forward", False), ("reverse", True), ("bidirectional", True)])


@pytest.mark.parametrize(
    ("op", "number", "direction", "lengths"), [(*case, *next(WAYS)) for case in CASES]
)
def test_operators(op: str, number: int, direction: str, lengths: bool, tmp_path: Path) -> None:
    options = dict(OPTIONS[op][number])
    peepholes = options.pop("peepholes", 0)
    count, gates = 1 + (direction == "bidirectional"), GATES[op]
    for name in ("activations", "activation_alpha", "activation_beta"):
        if name in options:
            options[name] = options[name] * count
    weights = {
        "w": numbers(count, gates * HIDDEN, WIDTH), "r": numbers(count, gates * HIDDEN, HIDDEN),
        "b": numbers(count, 2 * gates * HIDDEN), "h": numbers(count, BATCH, HIDDEN),
    }  # fmt: skip
    given = ["x", "w", "r", "b", "n" if lengths else "", "h"]
    if lengths:
        weights["n"] = np.array([TIME, 3], np.int32)
    if op == "LSTM":
        weights["c"] = numbers(count, BATCH, HIDDEN)
        given.append("c")
    if peepholes:
        weights["p"] = numbers(count, 3 * HIDDEN)
        given.append("p")
    outputs = ["y", "last", "cell"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, given, outputs, hidden_size=HIDDEN, direction=direction, **options)
    path = saved(tmp_path / "m", [node], {"x": ["t", BATCH, WIDTH]}, weights, outputs)
    with sg.device("numpy"):
        agrees(path, numbers(TIME, BATCH, WIDTH), count=count)


def test_other_lengths_compile_nothing(one_cl_device: Any, tmp_path: Path) -> None:
    weights = {"w": numbers(1, 12, WIDTH), "r": numbers(1, 12, HIDDEN), "b": numbers(1, 24)}
    node = helper.make_node("GRU", ["x", "w", "r", "b"], ["y"], hidden_size=HIDDEN)
    path = saved(tmp_path / "m", [node], {"x": ["t", "b", WIDTH]}, weights, ["y"])
    model = agrees(path, numbers(TIME, BATCH, WIDTH), count=1)
    model(numbers(9, 3, WIDTH)).numpy()
    model(numbers(14, 6, WIDTH)).numpy()
    with sg.Profile() as profile:
        model(numbers(90, 5, WIDTH)).numpy()
    assert profile.compiles == 0
    assert profile.launches <= 6


def test_gradients_through_a_reset_before_the_product(tmp_path: Path) -> None:
    """Its steps are two for each time; by finite differences."""
    weights = {"w": numbers(1, 6, 2), "r": numbers(1, 6, 2)}
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=2, direction="reverse")
    path = saved(tmp_path / "m", [node], {"x": [3, 1, 2]}, weights, ["y"])
    with sg.device("numpy"):
        model = sgx.load(path)
        x = numbers(3, 1, 2)

        def loss(array: np.ndarray) -> Tensor:
            return model(given := Tensor(array)).sin().sum(), given

        value, given = loss(x)
        value.backward()
        for place in itertools.product(range(3), range(1), range(2)):
            moved = [x.copy(), x.copy()]
            moved[0][place] += 1e-2
            moved[1][place] -= 1e-2
            slope = (loss(moved[0])[0].item() - loss(moved[1])[0].item()) / 2e-2
            np.testing.assert_allclose(given.grad.numpy()[place], slope, atol=2e-3)


LAYERS = [
    (nn.RNN, {}, 1), (nn.LSTM, {"bidirectional": True}, 2), (nn.GRU, {"layers": 2}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("make", "options", "count"), LAYERS, ids=["rnn", "lstm", "gru"])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_was_exported_comes_back_as_it_was(
    make: Any, options: Any, count: int, batch: int, tmp_path: Path
) -> None:
    with sg.device("numpy"):
        layer, x = make(2, HIDDEN, **options), numbers(batch, 6, 2)
        own = dict(layer.named_parameters())
        sgx.export(lambda x: layer(x)[0], (x,), tmp_path / "m", parameters=own)
        model = sgx.load(tmp_path / "m", requires_grad=True)
        wanted, got = layer(x)[0], model(x)
        assert scans([got]) == count
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)
        for result in (wanted, got):
            result.square().sum().backward()
        for name, tensor in own.items():
            mine = model.parameters[name].grad.numpy()
            np.testing.assert_allclose(mine, tensor.grad.numpy(), rtol=1e-4, atol=1e-5)


def value(name: str, shape: Any = None, dtype: int = 1) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


MATRICES = {
    "w": numbers(WIDTH, HIDDEN), "r": numbers(HIDDEN, HIDDEN), "b": numbers(HIDDEN),
    "out": numbers(HIDDEN, 7), "s": numbers(2 * HIDDEN, 2 * HIDDEN), "h0": numbers(BATCH, HIDDEN),
    "c0": numbers(BATCH, HIDDEN),
}  # fmt: skip
WIDE = [  # a cell that multiplies both states, side by side, and cuts the product in two
    node("Concat", "h c", "both", axis=1), node("MatMul", "both s", "p"),
    node("Split", "p", "p0 p1", axis=1), node("MatMul", "x_t w", "xw"), node("Add", "xw b", "xb"),
    node("Add", "p0 xb", "q"), node("Tanh", "q", "h_next"), node("Sigmoid", "p1", "g"),
    node("Mul", "g c", "kept"), node("Add", "kept h_next", "c_next"),
    node("MatMul", "h_next out", "y_t"), node("Softmax", "y_t", "z_t", axis=-1),
    node("Sub", "h c_next", "before"),
]  # fmt: skip
GATED = [  # Gemm with a turned matrix, a mask, and a state that only counts
    node("Gemm", "h r b", "p", transB=1), node("MatMul", "x_t w", "xw"), node("Add", "p xw", "q"),
    node("Relu", "q", "new"), node("Greater", "xw q", "mask"), node("Where", "mask new h", "h_next"),
    node("Add", "c new", "c_next"), node("Identity", "c_next", "z_t"), node("Neg", "p", "before"),
]  # fmt: skip


@pytest.mark.parametrize("batch", [1, BATCH])
@pytest.mark.parametrize("body", [WIDE, GATED], ids=["wide", "gated"])
def test_a_scan_of_any_cell(body: list[Any], batch: int, tmp_path: Path) -> None:
    graph = helper.make_graph(
        body, "body", [value("h"), value("c"), value("x_t")],
        [value("h_next"), value("c_next"), value("z_t"), value("before")],
    )  # fmt: skip
    scan = node(
        "Scan", "h0 c0 x", "h_end c_end z before_all", body=graph, num_scan_inputs=1,
        scan_input_directions=[1], scan_output_directions=[0, 1], scan_output_axes=[1, 0],
    )  # fmt: skip
    weights = {n: a[:batch] if n in ("h0", "c0") else a for n, a in MATRICES.items()}
    outputs = ["h_end", "c_end", "z", "before_all"]
    path = saved(tmp_path / "m", [scan], {"x": ["t", batch, WIDTH]}, weights, outputs)
    with sg.device("numpy"):
        agrees(path, numbers(TIME, batch, WIDTH), count=1)


def test_a_loop_that_picks_its_input(tmp_path: Path) -> None:
    """Its matrix is carried along, too, as scripted models do it."""
    body = helper.make_graph(
        [
            node("Gather", "x i", "x_t", axis=1), node("MatMul", "x_t w", "xw"),
            node("MatMul", "h m", "p"), node("Add", "p xw", "q"), node("Tanh", "q", "h_next"),
            node("Identity", "m", "m_next"), node("Identity", "going", "going_on"),
            node("Add", "h_next b", "z"),
        ],
        "body", [value("i", [], 7), value("going", [], 9), value("h"), value("m")],
        [value("going_on", [], 9), value("h_next"), value("m_next"), value("z")],
    )  # fmt: skip
    loop = node("Loop", "n yes h0 r", "h_end m_end zs", body=body)
    weights = {**MATRICES, "n": np.array(TIME), "yes": np.array(True)}
    path = saved(tmp_path / "m", [loop], {"x": [BATCH, TIME, WIDTH]}, weights, ["h_end", "zs"])
    with sg.device("numpy"):
        agrees(path, numbers(BATCH, TIME, WIDTH), count=1)


UNROLLED = {
    "product of a product": [node("MatMul", "h r", "p"), node("MatMul", "p r", "q"), node("Add", "q x_t", "h_next")],
    "sum over the batch": [node("ReduceSum", "h zero", "p", keepdims=1), node("Add", "p x_t", "q"), node("MatMul", "q r", "h_next")],
    "no product": [node("Add", "h x_t", "h_next")],
}  # fmt: skip


@pytest.mark.parametrize("name", UNROLLED)
def test_other_bodies_are_unrolled(name: str, tmp_path: Path) -> None:
    graph = helper.make_graph(UNROLLED[name], "body", [value("h"), value("x_t")], [value("h_next")])
    scan = node("Scan", "h0 x", "end", body=graph, num_scan_inputs=1)
    weights = {**MATRICES, "zero": np.array([0])}
    path = saved(tmp_path / "m", [scan], {"x": [3, BATCH, HIDDEN]}, weights, ["end"])
    with sg.device("numpy"):
        agrees(path, numbers(3, BATCH, HIDDEN), count=0)


@pytest.mark.parametrize("fed", ["noise", "x_t"])
def test_random_numbers_are_new_in_every_round(fed: str, tmp_path: Path) -> None:
    body = [
        node("RandomNormalLike", "x_t", "noise"), node("MatMul", "h r", "p"),
        node("Add", f"p {fed}", "h_next"), node("Identity", "noise", "z"),
    ]  # fmt: skip
    graph = helper.make_graph(
        body, "body", [value("h"), value("x_t")], [value("h_next"), value("z")]
    )
    scan = node("Scan", "h0 x", "end zs", body=graph, num_scan_inputs=1)
    path = saved(tmp_path / "m", [scan], {"x": [3, BATCH, HIDDEN]}, MATRICES, ["zs"])
    with sg.device("numpy"):
        noise = sgx.load(path)(numbers(3, BATCH, HIDDEN)).numpy()
    assert len(np.unique(noise)) == noise.size

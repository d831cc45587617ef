"""Model files that are wrong, cut short or hostile, and calls that do not fit: clear errors."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
import simplegrad.onnx as sgx
from simplegrad import Tensor
from simplegrad.errors import ModelError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(autouse=True)
def _reference() -> Any:
    with sg.device("numpy"):
        yield


def model(
    nodes: list[Any],
    weights: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = None,
    outputs: dict[str, Any] | None = None,
    opset: int = 17,
    **fields: Any,
) -> Any:
    """Return a model of float inputs and outputs; shapes None are left out."""
    inputs = {"x": [2, 3]} if inputs is None else inputs
    outputs = {"y": None} if outputs is None else outputs
    tensors = [
        w if isinstance(w, TensorProto) else numpy_helper.from_array(w, n)
        for n, w in (weights or {}).items()
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, 1, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, 1, s) for n, s in outputs.items()], tensors,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **fields)


def load(proto: Any, tmp_path: Path, **options: Any) -> Any:
    path = tmp_path / "model.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return sgx.load(path, **options)


def run(loaded: Any) -> None:
    """Call a model with ones, and compute all it returns."""
    results = loaded(*[np.ones(shape, np.float32) for _, shape in loaded.inputs.values()])
    for result in results if isinstance(results, tuple) else [results]:
        result.numpy()


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"the_{op}", **attributes)


GOOD = model(
    [node("MatMul", "x w", "h"), node("Relu", "h", "y")], {"w": np.ones((3, 4), np.float32)}
)


# What a good file does --------------------------------------------------------------------------


def test_it_runs_on_every_device(tmp_path: Path, device: Any) -> None:
    loaded = load(GOOD, tmp_path)
    y = loaded(X)
    assert y._node.buffer is None  # lazy until it is read
    np.testing.assert_allclose(y.numpy(), np.maximum(X @ np.ones((3, 4)), 0))
    assert loaded.parameters["w"].device is device


def test_gradients_flow_to_arguments_and_on_request_to_weights(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path, requires_grad=True)
    x = Tensor(X + 1)
    loaded(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full((2, 3), 4))
    np.testing.assert_allclose(
        loaded.parameters["w"].grad.numpy(), np.tile((X + 1).sum(0)[:, None], 4)
    )
    assert not load(GOOD, tmp_path)(X).requires_grad


def test_weights_can_be_trained(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path, requires_grad=True)
    optimizer = sg.SGD(list(loaded.parameters.values()), learning_rate=0.01)
    losses = []
    for _ in range(5):
        loss = loaded(X).square().sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 2


def test_shapes_are_worked_out_on_the_host(tmp_path: Path) -> None:
    """Shape, Gather, Mul, Concat and Cast cost no kernel; other extents give another shape."""
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s zero", "n", axis=0), node("Mul", "n two", "m"),
        node("Cast", "m", "f", to=1), node("Floor", "f", "g"), node("Cast", "g", "i", to=7),
        node("Concat", "i one", "t", axis=0), node("Expand", "first t", "y"),
    ]  # fmt: skip
    weights = {
        "zero": np.array([0]),
        "two": np.array([2]),
        "one": np.array([-1 + 2]),
        "first": X[:1, :1],
    }
    loaded = load(model(nodes, weights, {"x": ["n", 3]}), tmp_path)
    with sg.Profile() as profile:
        assert loaded(X).shape == (4, 1)
        assert loaded(np.ones((5, 3), np.float32)).shape == (10, 1)
    assert profile.launches == 0


def test_nodes_out_of_order_and_functions(tmp_path: Path) -> None:
    swapped = model([node("Relu", "h", "y"), node("Neg", "x", "h")])
    np.testing.assert_array_equal(load(swapped, tmp_path)(X).numpy(), np.maximum(-X, 0))
    attribute = helper.make_node("LeakyRelu", ["a"], ["b"])
    attribute.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=1))
    function = helper.make_function(
        "own", "Steep", ["a"], ["b"], [attribute], [helper.make_opsetid("", 17)], ["slope"]
    )
    call = helper.make_node("Steep", ["x"], ["y"], domain="own", slope=3.0)
    proto = model([call], functions=[function])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    np.testing.assert_array_equal(
        load(proto, tmp_path)(X - 3).numpy(), np.where(X < 3, 3 * (X - 3), X - 3)
    )


def test_old_and_new_forms_of_an_operator(tmp_path: Path) -> None:
    old = model([node("Unsqueeze", "x", "y", axes=[0])], opset=11)
    new = model([node("Unsqueeze", "x a", "y")], {"a": np.array([0])}, opset=13)
    for proto in (old, new):
        assert load(proto, tmp_path)(X).shape == (1, 2, 3)


def test_a_weight_that_is_also_an_input_has_a_default(tmp_path: Path) -> None:
    nodes = [node("Neg", "w", "v"), node("Add", "x v", "y")]
    loaded = load(model(nodes, {"w": X[0]}, {"x": [2, 3], "w": [3]}), tmp_path)
    assert list(loaded.inputs) == ["x"]
    np.testing.assert_array_equal(loaded(X).numpy(), X - X[0])
    np.testing.assert_array_equal(loaded(X, w=X[1]).numpy(), X - X[1])


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(sg.SimplegradError, match=r"pip install onnx"):
        sgx.load(tmp_path / "model.onnx")


# Arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda m: m(), ModelError, r"missing \['x'\]"),
        (lambda m: m(X, X), ModelError, "2 arguments"),
        (lambda m: m(X, z=X), ModelError, r"unknown \['z'\]"),
        (lambda m: m(X, x=X), ModelError, r"twice \['x'\]"),
        (lambda m: m(X.astype(np.int32)), sg.DTypeError, "'x' is int32, but float32 is declared"),
        (lambda m: m(X[:1]), sg.ShapeError, r"'x' has shape \(1, 3\), but \(2, 3\) is declared"),
        (lambda m: m(X[0]), sg.ShapeError, "declared"),
    ],
)
def test_arguments_that_do_not_fit(call: Any, error: type, said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        call(load(GOOD, tmp_path))


def test_named_extents_agree(tmp_path: Path) -> None:
    loaded = load(model([node("Add", "x z", "y")], inputs={"x": ["n", 3], "z": ["n", 3]}), tmp_path)
    assert loaded(X, X).shape == (2, 3)
    with pytest.raises(sg.ShapeError, match="'z'"):
        loaded(X, X[:1])


# Files that are wrong ---------------------------------------------------------------------------


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    data = GOOD.SerializeToString()
    for end in range(len(data)):
        with pytest.raises(sg.SimplegradError):
            load(data[:end], tmp_path)(X)


def test_damaged_files_never_crash(tmp_path: Path) -> None:
    rng = random.Random(7)
    data = GOOD.SerializeToString()
    fine = 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            run(load(bytes(damaged), tmp_path))
            fine += 1
        except sg.SimplegradError:
            pass
    assert fine < 400


def huge(**fields: Any) -> Any:
    tensor = TensorProto(name="w", data_type=1, **fields)
    return model([node("MatMul", "x w", "y")], {"w": tensor})


FILES: dict[str, tuple[Any, str]] = {
    "empty": (b"", "no graph"),
    "text": (b"not a model at all", "no ONNX model"),
    "cycle": (model([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Neg", "b", "y")]), "own results"),
    "itself": (model([node("Add", "x y", "y")]), "own results"),
    "undefined": (model([node("Add", "x nowhere", "y")]), r"\['nowhere'\], defined nowhere"),
    "no output": (model([node("Relu", "x", "z")]), r"nothing defines the outputs \['y'\]"),
    "twice": (model([node("Relu", "x", "y"), node("Neg", "x", "y")]), "'y' is defined twice"),
    "shadow": (model([node("Relu", "x", "x"), node("Neg", "x", "y")]), "'x' is defined twice"),
    "weight twice": (model([node("Relu", "x", "y")], {"a": huge().graph.initializer[0], "b": huge().graph.initializer[0]}), "holds 1 numbers, not 0|stands twice"),
    "no opset": (model([node("Relu", "x", "y")]).SerializeToString().replace(b"B\x04\n\x00\x10\x11", b""), "no opset"),
    "future": (model([node("Relu", "x", "y")], opset=999), "opset 999"),
    "short data": (huge(dims=[3, 4], raw_data=b"1234"), "takes 48 bytes, but the file holds 4"),
    "few numbers": (huge(dims=[3, 4], float_data=[1.0]), "holds 12 numbers, not 1"),
    "huge dims": (huge(dims=[2**40, 2**40], raw_data=b"1234"), "takes more than 16 GiB"),
    "large dims": (huge(dims=[2**31], raw_data=b"1234"), "takes 8589934592 bytes"),
    "negative dims": (huge(dims=[-3, 4], raw_data=b"1234"), "negative"),
    "strings": (huge(dims=[1]).SerializeToString().replace(b"\x10\x01B\x01w", b"\x10\x08B\x01w"), "data type 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_refused(name: str, tmp_path: Path) -> None:
    proto, said = FILES[name]
    with pytest.raises(ModelError, match=said):
        load(proto, tmp_path)


CALLS: dict[str, tuple[Any, str]] = {
    "shapes": (model([node("Add", "x w", "y")], {"w": np.ones(7, np.float32)}), "node 'the_Add'.*broadcast"),
    "declared output": (model([node("Relu", "x", "y")], outputs={"y": [5, 5]}), r"\(2, 3\), but \(5, 5\) is declared"),
    "axis": (model([node("Softmax", "x", "y", axis=9)]), "node 'the_Softmax'"),
    "permutation": (model([node("Transpose", "x", "y", perm=[0, 0])]), "the_Transpose"),
    "wrong attribute": (model([node("Softmax", "x", "y", axis="one")]), "'axis' has type 3"),
    "no attribute": (model([node("Concat", "x x", "y")]), "'axis' is missing"),
    "no input": (model([helper.make_node("Relu", [], ["y"], name="bare")]), "'bare'.*input 0 is missing"),
    "index": (model([node("Gather", "x i", "y")], {"i": np.array([9])}), "the_Gather.*out of range"),
    "reshape": (model([node("Reshape", "x s", "y")], {"s": np.array([7, -1])}), "the_Reshape"),
    "huge result": (model([node("Expand", "x s", "y")], {"s": np.array([2**40, 2, 3])}), "16 GiB"),
    "huge constant": (model([node("ConstantOfShape", "s", "y")], {"s": np.array([2**62, 4])}), "16 GiB"),
    "huge tile": (model([node("Tile", "x s", "y")], {"s": np.array([2**40, 1])}), "16 GiB"),
    "huge pad": (model([node("Pad", "x s", "y")], {"s": np.array([2**40, 0, 0, 0])}), "16 GiB"),
    "float shape": (model([node("Reshape", "x s", "y")], {"s": np.array([6.0])}), "not integers"),
    "kernel": (model([node("Conv", "x w", "y")], {"w": np.ones((1, 3, 0, 0), np.float32)}, {"x": [1, 3, 4, 4]}), "the_Conv"),
    "groups": (model([node("Conv", "x w", "y", group=0)], {"w": np.ones((1, 3, 2, 2), np.float32)}, {"x": [1, 3, 4, 4]}), "groups"),
    "strides": (model([node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[0, 0])], inputs={"x": [1, 3, 4, 4]}), "at least 1"),
    "split": (model([node("Split", "x s", "y z", axis=0)], {"s": np.array([5, 5])}), "do not split"),
    "einsum": (model([node("Einsum", "x x", "y", equation="ij,!!")]), "the_Einsum"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_models_that_contradict_themselves(name: str, tmp_path: Path) -> None:
    proto, said = CALLS[name]
    with pytest.raises(sg.SimplegradError, match=said):
        run(load(proto, tmp_path))


def test_an_endless_loop_ends(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Neg", ["a"], ["b"])], "body",
        [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("c", 9, []), helper.make_tensor_value_info("a", 1, None)],
        [helper.make_tensor_value_info("d", 9, []), helper.make_tensor_value_info("b", 1, None)],
    )  # fmt: skip
    proto = model(
        [node("Loop", "n t x", "y", body=body)], {"n": np.array(2**62), "t": np.array(True)}
    )
    with pytest.raises(ModelError, match="more than 10000 rounds"):
        load(proto, tmp_path)(X)


def test_a_function_that_calls_itself(tmp_path: Path) -> None:
    again = helper.make_node("F", ["a"], ["b"], domain="own")
    function = helper.make_function(
        "own", "F", ["a"], ["b"], [again], [helper.make_opsetid("own", 1)]
    )
    proto = model([helper.make_node("F", ["x"], ["y"], domain="own")], functions=[function])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    with pytest.raises(ModelError, match="calls itself"):
        load(proto, tmp_path)


def test_functions_that_double_at_each_level(tmp_path: Path, monkeypatch: Any) -> None:
    """Thirty functions, each of which calls the next one twice: a billion nodes."""
    monkeypatch.setattr("simplegrad.onnx.model._MAX_STEPS", 1000)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for i in range(30):
        domain, name = ("own", f"F{i + 1}") if i < 29 else ("", "Neg")
        body = [helper.make_node(name, [a], [b], domain=domain) for a, b in ("ab", "bc")]
        functions.append(helper.make_function("own", f"F{i}", ["a"], ["c"], body, imports))
    proto = model([helper.make_node("F0", ["x"], ["y"], domain="own")], functions=functions)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    loaded = load(proto, tmp_path)
    with pytest.raises(ModelError, match="more than 1000 nodes"):
        loaded(X)


def test_all_unsupported_operators_are_named_at_once(tmp_path: Path) -> None:
    odd = helper.make_node("Odd", ["h"], ["i"], name="odd one", domain="elsewhere")
    nodes = [
        node("ImageDecoder", "x", "h"),
        odd,
        helper.make_node("ImageDecoder", ["i"], ["y"], name="second"),
    ]
    with pytest.raises(sg.UnsupportedOp) as caught:
        load(model(nodes, opset=20), tmp_path)
    text = str(caught.value)
    assert "2 operators" in text
    assert "ImageDecoder (opset 20): 'the_ImageDecoder', 'second'" in text
    assert "elsewhere.Odd (its domain has no opset): 'odd one'" in text


# Data in other files ----------------------------------------------------------------------------


def outside(location: str, **fields: Any) -> Any:
    proto = huge(dims=[3, 4], data_location=1)
    entries = {"location": location, **fields}
    for key, value in entries.items():
        proto.graph.initializer[0].external_data.add(key=key, value=str(value))
    return proto


def test_data_beside_the_model(tmp_path: Path) -> None:
    w = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.bin").write_bytes(b"head" + w.tobytes())
    loaded = load(outside("deep/w.bin", offset=4, length=48), tmp_path)
    np.testing.assert_allclose(loaded(X).numpy(), X @ w)


@pytest.mark.parametrize(
    ("location", "fields", "said"),
    [
        ("../secret.bin", {}, "not in the model's own folder"),
        ("deep/../../secret.bin", {}, "not in the model's own folder"),
        ("{root}/secret.bin", {}, "not in the model's own folder"),
        ("link.bin", {}, "not in the model's own folder"),
        ("", {}, "not in the model's own folder"),
        ("missing.bin", {}, "cannot be read"),
        ("w.bin", {"offset": 44}, "48 bytes"),
        ("w.bin", {"offset": -4}, "takes 48 bytes"),
        ("w.bin", {"length": 1 << 40}, "to hold 1099511627776"),
        ("w.bin", {"offset": "x"}, "cannot be read"),
        ("pipe", {}, "not a regular file"),
        (".", {}, "not a regular file"),
        ("bad\0name", {}, "cannot be read"),
    ],
)
def test_data_elsewhere_is_never_read(
    location: str, fields: Any, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    (folder / "w.bin").write_bytes(bytes(48))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelError, match=said):
        load(outside(location.format(root=tmp_path), **fields), folder)


def test_attributes_hold_their_own_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(48))
    tensor = outside("w.bin").graph.initializer[0]
    proto = model(
        [helper.make_node("Constant", [], ["w"], value=tensor), node("MatMul", "x w", "y")]
    )
    with pytest.raises(ModelError, match="for weights only"):
        load(proto, tmp_path)(X)

"""Wrong arguments: every public function answers with an error of ours that names the function.

Each row is a call that works. Its arguments are replaced, one at a time, by values of a wrong type,
shape, dtype or device. Either the call still has a meaning, or it raises one of our errors, named
after what was called; never a raw Python error, and never one only when the result is read.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, nn, optim, random, settings
from simplegrad.errors import SimplegradError
from simplegrad.runtime.numpy_device import NumpyDevice


class Other(NumpyDevice):
    """A second device."""

    name = "other"


OTHER = Other()
with sg.device("numpy"):
    X, SQUARE, VECTOR = sg.ones((2, 3)), sg.ones((3, 3)), sg.ones((3,))
    COUNTS, MASK = sg.asarray([0, 1, 2]), sg.asarray([True, False, True])
    IMAGE, LINE = sg.ones((1, 2, 5, 5)), sg.ones((1, 2, 5))
    SEQUENCE = sg.ones((2, 3, 4))
    LEAF = Tensor([1.0, 2.0])
    LEAF.sum().backward()  # clipping asks for a gradient

BAD: list[Any] = [
    "word", object(), 1.5, -9, 99, (), (9, 9, 9, 9, 9), ["word"], [[1], [2, 3]], {"a": 1}, 1j,
    np.array(["word"]), np.array(1j), np.array([1, 0]), float("nan"), [None], len, True, None,
    10**30, "ij,jk->ik", sg.float32,
]  # fmt: skip

UNARY = """
neg sign abs exp exp2 expm1 log log2 log1p sqrt rsqrt reciprocal square sin cos tan asin acos atan
sinh cosh tanh asinh acosh atanh erf floor ceil round trunc isnan isinf isfinite signbit logical_not
relu sigmoid softplus silu flatten ravel rint negative absolute positive log10 bitwise_invert bitwise_not
nonzero
""".split()  # noqa: SIM905
BINARY = """
add sub subtract mul multiply div divide floor_divide remainder pow power maximum minimum atan2
hypot equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor
bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift dot inner outer
""".split()  # noqa: SIM905
BITS = ("bitwise",)
REDUCTIONS = """
sum prod max min mean var std argmax argmin any all logsumexp count_nonzero
""".split()  # noqa: SIM905

METHODS: dict[str, tuple[Any, ...]] = {
    "sum": (X, 0, True, "float32"),
    "prod": (X, 0, True, "float32"),
    "var": (X, 0, True, 1),
    "std": (X, 0, True, 1),
    "cumsum": (X, 0, "float32", True),
    "diff": (X, 1, 0, X, X),
    "cumprod": (X, 0, "float32", True),
    "copy": (X,),
    "round": (X, 2),
    "trace": (SQUARE, 1, 0, 1),
    "clip": (X, 0.0, 1.0),
    "cast": (X, "int32"),
    "astype": (X, "int32"),
    "where": (MASK, VECTOR, VECTOR),
    "lerp": (X, X, 0.5),
    "reshape": (X, (3, 2)),
    "permute": (X, (1, 0)),
    "permute_dims": (X, (1, 0)),
    "transpose": (X, 1, 0),
    "swapaxes": (X, 0, 1),
    "moveaxis": (X, 0, 1),
    "matrix_transpose": (X,),
    "broadcast_to": (X, (2, 2, 3)),
    "expand_dims": (X, 0),
    "squeeze": (SQUARE[:1], 0),
    "flip": (X, 0),
    "pad": (X, 1, 0.0),
    "as_strided": (X, (2, 2), (1, 1), 0),
    "window_view": (IMAGE, (2, 2), 1, 1),
    "split": (X, 3, 1),
    "tile": (X, 2, 2),
    "repeat": (X, 2, 0),
    "roll": (X, 1, 0),
    "diagonal": (SQUARE, 1, 0, 1),
    "take": (X, COUNTS[:2], 1),
    "take_along_axis": (X, COUNTS[None], 1),
    "gather": (X, COUNTS[None], 1),
    "one_hot": (COUNTS, 4, "float32"),
    "bincount": (COUNTS, VECTOR, 4, 5),
    "einsum": (X, "ij,jk->ik", SQUARE),
    "matmul": (X, SQUARE),
    "tensordot": (X, SQUARE, 1),
    "vecdot": (X, X, -1),
    "gelu": (X, "tanh"),
    "leaky_relu": (X, 0.1),
    "elu": (X, 1.0),
    "softmax": (X, -1),
    "logsoftmax": (X, -1),
    "log_softmax": (X, -1),
    "layer_norm": (X, -1, VECTOR, VECTOR, 1e-5),
    "batch_norm": (X, VECTOR, VECTOR, VECTOR, VECTOR, 1, 1e-5),
    "dropout": (X, 0.5, True, random.Generator(0)),
    "conv1d": (LINE, sg.ones((2, 1, 3), device="numpy"), 1, 1, 1, 2, sg.ones(2, device="numpy")),
    "conv2d": (IMAGE, sg.ones((2, 1, 3, 3), device="numpy"), 1, 1, 1, 2, None),
    "maxpool1d": (LINE, 3, 1, 1, 1),
    "maxpool2d": (IMAGE, (3, 3), 1, 1, 1),
    "avgpool1d": (LINE, 3, 1, 1),
    "avgpool2d": (IMAGE, (3, 3), 1, 1),
    "cross_entropy": (X, COUNTS[:2], -1, "mean"),
    "mse_loss": (X, X, "sum"),
}
METHODS |= {name: (X, 0, True) for name in REDUCTIONS if name not in METHODS}
METHODS |= {name: (VECTOR, VECTOR) for name in BINARY if not name.startswith(BITS)}
METHODS |= {name: (COUNTS, COUNTS) for name in BINARY if name.startswith(BITS)}
METHODS |= {name: (X,) for name in UNARY if not name.startswith(BITS)}
METHODS |= {name: (COUNTS,) for name in UNARY if name.startswith(BITS)}
"""Of each method and function of a tensor, a call that works."""

OF_TENSORS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "backward": (LEAF.sum().backward, (1.0, False)),
    "getitem": (X.__getitem__, (0,)),
    "compute_along": (LEAF.compute_along, (X,)),
    "contains": (X.__contains__, (1.0,)),
    "item": (VECTOR.item, (0,)),
    "to_device": (X.to_device, ("numpy",)),
    "to": (X.to, ("numpy",)),
    "mse": (X.mse, (X, "sum")),
    "fork": (X.fork, ()),
    "Tensor": (Tensor, (X, "float32", False, "numpy")),
}
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "allclose": (X, X, 1e-5, 1e-8, False),
    "array_equal": (X, X, False),
    "atleast_1d": (X,),
    "atleast_2d": (X,),
    "atleast_3d": (X,),
    "average": (X, 1, VECTOR, True),
    "column_stack": ([X, X],),
    "concatenate": ([X, X], 0),
    "diag": (VECTOR, 1),
    "dstack": ([X, X],),
    "hstack": ([X, X],),
    "isclose": (X, X, 1e-5, 1e-8, False),
    "kron": (X, X),
    "median": (X, 0, True),
    "nanmax": (X, 0, True),
    "nanmean": (X, 0, True),
    "nanmin": (X, 0, True),
    "nansum": (X, 0, True, "float32"),
    "ptp": (X, 0, True),
    "vstack": ([X, X],),
    "arange": (0, 4, 1, "float32", "numpy", False),
    "asarray": ([1.0], "float32", "numpy", True, False),
    "broadcast_arrays": (X, VECTOR),
    "broadcast_shapes": ((2, 3), (3,)),
    "can_cast": ("int8", "int16"),
    "concat": ([X, X], 0),
    "copysign": (X, X),
    "cumulative_prod": (VECTOR,),
    "cumulative_sum": (VECTOR,),
    "empty": ((2, 3), "float32", "numpy", False),
    "empty_like": (X, "float32"),
    "eye": (2, 3, 1, "float32", "numpy", False),
    "finfo": ("float32",),
    "from_dlpack": (np.ones(3),),
    "full": ((2, 3), 1.0, "float32", "numpy", False),
    "full_like": (X, 1.0, "float32"),
    "iinfo": ("int32",),
    "isdtype": ("int32", "integral"),
    "isin": (X, VECTOR),
    "linspace": (0.0, 1.0, 5, True, "float32", "numpy", False),
    "logaddexp": (X, X),
    "meshgrid": (VECTOR, VECTOR),
    "ones": ((2, 3), "float32", "numpy", False),
    "ones_like": (X, "float32"),
    "realize": (X,),
    "result_type": ("int8", 1),
    "scaled_dot_product_attention": (SEQUENCE, SEQUENCE, SEQUENCE, None, True, 0.5),
    "scatter_add": (COUNTS, SQUARE, 4),
    "searchsorted": (VECTOR, X),
    "set_default_float": ("float32",),
    "stack": ([X, X], 0),
    "tril": (SQUARE, 1),
    "triu": (SQUARE, 1),
    "unstack": (X,),
    "zeros": ((2, 3), "float32", "numpy", False),
    "zeros_like": (X, "float32"),
    "device": ("numpy",),
    "fusion": (False,),
    "explain": (X,),
    "grad": (lambda x: x.sum(), 0),
    "value_and_grad": (lambda x: x.sum(), 0, False),
    "jit": (lambda x: x.sum(),),
}
OTHERS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "SGD": (optim.SGD, ([LEAF], 0.1, 0.9, True, 0.1)),
    "Adam": (optim.Adam, ([LEAF], 0.1, 1e-7, 0.9, 0.99, 0.1)),
    "AdamW": (optim.AdamW, ([LEAF], 0.1, 1e-7, 0.9, 0.99, 0.1)),
    "RMSprop": (optim.RMSprop, ([LEAF], 0.1, 0.9, 1e-8, 0.1)),
    "clip_norm": (optim.clip_norm, ([LEAF], 1.0)),
    "clip_value": (optim.clip_value, ([LEAF], 1.0)),
    "constant": (optim.constant, (0.1,)),
    "step_decay": (optim.step_decay, (0.1, 3, 0.5)),
    "exponential": (optim.exponential, (0.1, 0.5)),
    "cosine": (optim.cosine, (0.1, 5, 0.0)),
    "warmup": (optim.warmup, (optim.constant(0.1), 5)),
    "Generator": (random.Generator, (1,)),
    "seed": (random.Generator(0).seed, (1,)),
    "uniform": (random.uniform, ((2, 3), 0.0, 1.0, "float32", "numpy", False)),
    "normal": (random.normal, ((2, 3), 0.0, 1.0, "float32", "numpy", False)),
    "integers": (random.integers, (0, 5, (2, 3), "int32", "numpy")),
    "bernoulli": (random.bernoulli, (0.5, (2, 3), "numpy")),
    "permutation": (random.permutation, (5, "numpy")),
    "Linear": (nn.Linear, (3, 2, True)),
    "Conv1d": (nn.Conv1d, (2, 2, 3, 1, 1, 1, 2, True)),
    "Conv2d": (nn.Conv2d, (2, 2, 3, 1, 1, 1, 2, True)),
    "Embedding": (nn.Embedding, (4, 3)),
    "Dropout": (nn.Dropout, (0.5, random.Generator(0))),
    "LayerNorm": (nn.LayerNorm, ((3,), 1e-5)),
    "BatchNorm": (nn.BatchNorm, (3, 1e-5, 0.1)),
    "MaxPool1d": (nn.MaxPool1d, (3, 1, 1)),
    "MaxPool2d": (nn.MaxPool2d, (3, 1, 1)),
    "AvgPool1d": (nn.AvgPool1d, (3, 1, 1)),
    "AvgPool2d": (nn.AvgPool2d, (3, 1, 1)),
    "RNN": (nn.RNN, (3, 2, 1, False, 0.0)),
    "LSTM": (nn.LSTM, (3, 2, 1, False, 0.0)),
    "GRU": (nn.GRU, (3, 2, 1, False, 0.0)),
    "MultiHeadAttention": (nn.MultiHeadAttention, (4, 2, True)),
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer, (4, 2, 8, 0.1, sg.gelu, True, 1e-5)),
    "TransformerEncoder": (nn.TransformerEncoder, (1, 4, 2)),
    "Sequential": (nn.Sequential, (nn.Linear(2, 3), sg.relu)),
}
FANS = ((2, 3), 0.5, None, "float32")
OTHER_CALLS: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
    ("constant", nn.init.constant, ((2, 3), 1.0, "float32")),
    ("zeros", nn.init.zeros, ((2, 3), "float32")),
    ("ones", nn.init.ones, ((2, 3), "float32")),
    ("uniform", nn.init.uniform, FANS),
    ("normal", nn.init.normal, FANS),
    ("truncated_normal", nn.init.truncated_normal, FANS),
    ("xavier_uniform", nn.init.xavier_uniform, FANS),
    ("xavier_normal", nn.init.xavier_normal, FANS),
    ("kaiming_uniform", nn.init.kaiming_uniform, FANS),
    ("kaiming_normal", nn.init.kaiming_normal, FANS),
    ("orthogonal", nn.init.orthogonal, FANS),
    ("load_state_dict", nn.Flatten().load_state_dict, ({},)),
    ("load_state_dict", optim.Adam([LEAF]).load_state_dict, ({"steps": 1},)),
    ("symbolic", sg.symbolic, (lambda x: x.sum(), (2, 3))),
]
"""Those whose names stand in another table."""
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
with sg.device("numpy"):
    CALLS = {
        "Linear": (nn.Linear(3, 2), (X,)),
        "Conv1d": (nn.Conv1d(2, 2, 3), (LINE,)),
        "Conv2d": (nn.Conv2d(2, 2, 3), (IMAGE,)),
        "Embedding": (nn.Embedding(4, 3), (COUNTS,)),
        "Dropout": (nn.Dropout(), (X,)),
        "Flatten": (nn.Flatten(), (X,)),
        "LayerNorm": (nn.LayerNorm(3), (X,)),
        "BatchNorm": (nn.BatchNorm(3), (X,)),
        "MaxPool1d": (nn.MaxPool1d(3), (LINE,)),
        "MaxPool2d": (nn.MaxPool2d(3), (IMAGE,)),
        "AvgPool1d": (nn.AvgPool1d(3), (LINE,)),
        "AvgPool2d": (nn.AvgPool2d(3), (IMAGE,)),
        "RNN": (nn.RNN(4, 2), (SEQUENCE, sg.zeros((1, 2, 2), device="numpy"))),
        "LSTM": (nn.LSTM(4, 2), (SEQUENCE, (sg.zeros((1, 2, 2), device="numpy"),) * 2)),
        "GRU": (nn.GRU(4, 2), (SEQUENCE, sg.zeros((1, 2, 2), device="numpy"))),
        "MultiHeadAttention": (nn.MultiHeadAttention(4, 2), (SEQUENCE, SEQUENCE, None, True)),
        "TransformerEncoderLayer": (nn.TransformerEncoderLayer(4, 2), (SEQUENCE, None, True)),
        "cross_entropy": (nn.cross_entropy, (X, COUNTS[:2], -1, 0.1, "mean")),
        "binary_cross_entropy": (nn.binary_cross_entropy, (X, X, "mean")),
        "mse": (nn.mse, (X, X, "mean")),
        "l1": (nn.l1, (X, X, "mean")),
        "huber": (nn.huber, (X, X, 1.0, "mean")),
        "kl_divergence": (nn.kl_divergence, (X, X, "mean")),
    }


def _rows() -> list[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    rows = [(n, getattr(Tensor, n), a) for n, a in METHODS.items() if hasattr(Tensor, n)]
    rows += [(n, getattr(sg, n), a) for n, a in (METHODS | FUNCTIONS).items() if hasattr(sg, n)]
    rows = [r for r in rows if r[1] is not sg.einsum]
    rows.append(("einsum", sg.einsum, ("ij,jk->ik", X, SQUARE)))
    for table in (OF_TENSORS, OTHERS, CALLS):
        rows += [(n, f, a) for n, (f, a) in table.items()]
    return rows + OTHER_CALLS


ROWS = _rows()


def _read(value: Any) -> None:
    """Compute a result: an error must not wait until here."""
    if isinstance(value, Tensor):
        value.numpy()
    elif isinstance(value, (tuple, list)):
        for part in value:
            _read(part)


def _fault(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> str:
    """Return what is wrong with the answer to a call, or nothing."""
    try:
        result = call(*args)
    except SimplegradError as error:
        text = str(error)
        return "" if re.match(rf"({name}|device)\b", text) else f"named otherwise: {text[:90]}"
    except Exception as error:
        return f"raw {type(error).__name__}: {error}"
    try:
        _read(result)
    except Exception as error:
        return f"late {type(error).__name__}: {error}"
    return ""


@pytest.fixture(autouse=True)
def _on_numpy() -> Iterator[None]:
    with sg.device("numpy"), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
    sg.set_default_float("float32")


def _swapped(name: str, call: Any, args: tuple[Any, ...], bads: list[Any]) -> Iterator[Any]:
    """Yield (place, what is there instead, arguments) with one argument swapped at a time."""
    first = 1 if getattr(Tensor, name, None) is call else 0
    for place in range(first, len(args)):
        for bad in bads:
            yield place, bad, (*args[:place], bad, *args[place + 1 :])


@pytest.mark.parametrize(("name", "call", "args"), ROWS, ids=[r[0] for r in ROWS])
def test_wrong_arguments_get_an_error_that_names_the_function(
    name: str, call: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    _read(call(*args))
    faults = []
    for place, bad, wrong in _swapped(name, call, args, BAD):
        fault = _fault(name, call, wrong)
        if fault:
            faults.append(f"argument {place} {bad!r:.40}: {fault}")
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(("name", "call", "args"), ROWS, ids=[r[0] for r in ROWS])
def test_tensors_of_two_devices_do_not_mix(
    name: str, call: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
    weights = isinstance(call, nn.Module) and call.parameters()
    mixes = (len(places) > 1 or weights) and name not in ("meshgrid", "broadcast_arrays")
    for place in places if mixes else []:
        moved = Tensor(args[place], requires_grad=False, device=OTHER)
        with pytest.raises(sg.DeviceError, match=rf"^{name}\b.*\bother\b.*to_device"):
            call(*args[:place], moved, *args[place + 1 :])


NOT_SWEPT = set(
    """
    T mT cpu data device dtype final grad nbytes ndim numpy realize requires_grad shape size tolist
    detach zero_grad
    """.split()  # noqa: SIM905
)
"""Properties, and methods that take no argument and read or forget values."""


def test_every_public_function_is_swept() -> None:
    names = {n for n in dir(Tensor) if not n.startswith("_")} - NOT_SWEPT
    names |= {n for n in sg.__all__ if inspect.isfunction(getattr(sg, n)) and n[0] != "_"}
    names |= {n for n in nn.__all__ if n not in ("Module", "init", "load", "save")}
    swept = {name for name, _, _ in ROWS}
    assert names - swept == set(STATELESS)


STATELESS = "cache_stats clear_caches default_float explain_plan memory_stats synchronize".split()  # noqa: SIM905
"""Functions without arguments."""
A, LEAVES = X, [LEAF]
SAID: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "tile": (lambda: A.tile(-1), sg.ShapeError, r"^tile: repetitions \(-1,\) must be 0 or more"),
    "conv2d": (
        lambda: IMAGE.conv2d(sg.ones((1, 2, 9, 9))),
        sg.ShapeError,
        r"^conv2d: kernel \(9, 9\) .* is larger than \(5, 5\); pad the array first",
    ),
    "padding": (
        lambda: IMAGE.conv2d(sg.ones((1, 2, 2, 2)), padding=-1),
        sg.ShapeError,
        "^conv2d: padding -1 must not be negative",
    ),
    "softmax": (lambda: A.softmax(5), sg.ShapeError, "^softmax: axis 5 .*; give one of -2 … 1"),
    "one_hot": (
        lambda: COUNTS.one_hot(-1),
        sg.ArgumentError,
        "^one_hot: num_classes must be 0 or more",
    ),
    "transpose": (lambda: A.transpose(0, 2), sg.ShapeError, "^transpose: axis 2 is out of range"),
    "roll": (lambda: sg.roll(A, "x"), sg.ShapeError, "^roll: 'x' is no integer"),
    "mask": (
        lambda: sg.scaled_dot_product_attention(A, A, A, sg.ones((7, 7))),
        sg.ShapeError,
        r"^scaled_dot_product_attention: scores and mask: shapes \(2, 2\) and \(7, 7\)",
    ),
    "ones": (lambda: sg.ones(2, 3), sg.ShapeError, r"^ones: 3 is an extent; .* such as \(2, 3\)"),
    "no axes": (lambda: sg.sum(1.0, 0), sg.ShapeError, "^sum: axis 0 .*: reshape it first"),
    "arange": (lambda: sg.arange("a"), sg.ArgumentError, "^arange: .* a number, not 'a'"),
    "einsum": (
        lambda: A.einsum(3),
        sg.ArgumentError,
        '^einsum: subscripts must be .* "ij,jk->ik", not 3',
    ),
    "rate": (
        lambda: optim.Adam(LEAVES, learning_rate="x"),
        sg.ArgumentError,
        "^Adam: learning_rate must be a number, not 'x'",
    ),
    "one tensor": (lambda: optim.Adam(LEAF), sg.AutogradError, "^Adam: .*pass a list of tensors"),
    "no tensor": (lambda: optim.Adam([]), sg.AutogradError, "^Adam: the list .* is empty"),
    "Linear": (lambda: nn.Linear("x", 2), sg.ArgumentError, "^Linear: inputs must be an integer"),
    "width": (lambda: nn.Linear(-3, 2), sg.ArgumentError, "^Linear: inputs must be 0 or more"),
    "below": (
        lambda: nn.Sequential(nn.Linear(4, 2), sg.relu)(A),
        sg.ShapeError,
        "^Linear: takes .* 4",
    ),
    "Sequential": (lambda: nn.Sequential(3), sg.ArgumentError, "^Sequential: layer 0 is 3; pass"),
    "grad": (lambda: setattr(LEAF, "grad", "a"), sg.DTypeError, "^grad: data of NumPy dtype <U1"),
    "flag": (
        lambda: A.sum(keepdims=np.array([1, 0])),
        sg.ArgumentError,
        "^sum: keepdims must be True or False, not a ndarray",
    ),
    "seed": (lambda: random.Generator(1.5), sg.ArgumentError, "^Generator: .* integer, not 1.5"),
    "device": (
        lambda: setattr(Tensor, "device", 3),
        sg.DeviceError,
        "^device: 3 is no device; give a sel",
    ),
    "class": (lambda: setattr(Tensor, "device", int), sg.DeviceError, "^device: a type is no dev"),
    "int8": (
        lambda: sg.asarray([300], dtype="int8"),
        sg.DTypeError,
        r"^asarray: 300 … 300 do not fit int8 \(-128 … 127\); choose a wider dtype",
    ),
    "fusion": (
        lambda: settings.Settings.from_environment({"SIMPLEGRAD_FUSION": "no"}),
        sg.SimplegradError,
        "SIMPLEGRAD_FUSION='no' is neither 0 nor 1; set SIMPLEGRAD_FUSION=0 to switch it off",
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_the_error_gives_values_and_remedy(case: str) -> None:
    call, kind, text = SAID[case]
    with pytest.raises(kind, match=text):
        call()


def test_an_unknown_device_names_what_installs_drivers(one_cl_device: Any) -> None:
    with pytest.raises(
        sg.DeviceError, match=r"'cud' .*pocl-binary-distribution.*simplegrad doctor"
    ):
        X.to_device("cud")


def test_a_bool_is_no_extent_of_its_own_kind() -> None:
    # True hashes as 1: interned as an extent it would come back from shapes of (1,).
    assert repr(sg.zeros(True).shape) == repr(sg.ones((3,)).reshape(3, True).shape[1:]) == "(1,)"


def test_an_error_names_the_callers_function_and_not_the_users() -> None:
    def tile(x: Tensor) -> Tensor:
        return x.softmax(7)

    with pytest.raises(sg.ShapeError, match=r"^softmax: "):
        tile(X)
    with pytest.raises(sg.ShapeError, match=r"^softmax: "):
        sg.grad(lambda x: x.softmax(7).sum())(X)


@pytest.mark.parametrize(
    "call",
    [
        lambda: X.sum(axes=0),
        lambda: X.softmax(1, 2),
        lambda: X.conv2d(kernel=X),
        lambda: X.backward(retain=True),
        lambda: X.add(),
    ],
    ids=["sum", "softmax", "conv2d", "backward", "add"],
)
def test_pythons_own_errors_name_the_tensors_method(
    call: Callable[[], Any], request: pytest.FixtureRequest
) -> None:
    with pytest.raises(TypeError, match=rf"^Tensor\.{request.node.callspec.id}\(\) "):
        call()

"""PyTorch's optimisers step tensors as they step PyTorch's own, in memory that both see."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor
from simplegrad.interop.torch import Optimizer

torch = pytest.importorskip("torch", reason="needs the extra torch")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 4)).astype(np.float32)
Y = RNG.standard_normal((20, 3)).astype(np.float32)
W = RNG.standard_normal((4, 3)).astype(np.float32)
B = RNG.standard_normal((1, 3)).astype(np.float32)

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "LBFGS": {"lr": 0.5, "max_iter": 4},
}
CLASSES = [
    name
    for name, found in vars(torch.optim).items()
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer)
    if name not in ("Optimizer", "SparseAdam")  # a base, and one for sparse gradients only
]


def _address(tensor: Any) -> int:
    return int(np.asarray(tensor).__array_interface__["data"][0])


def _by_torch(name: str, steps: int) -> list[Any]:
    w, b = (torch.nn.Parameter(torch.from_numpy(v.copy())) for v in (W, B))
    optimizer = getattr(torch.optim, name)([w, b], **OPTIONS.get(name, {"lr": 0.05}))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = ((x @ w + b - y) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)
    return [w.detach().numpy(), b.detach().numpy()]


def _loss(w: Tensor, b: Tensor) -> Tensor:
    return (Tensor(X).matmul(w).add(b) - Tensor(Y)).square().mean()


def test_all_classes_are_here() -> None:
    assert {"SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "LBFGS"} <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("closed", [False, True], ids=["plain", "closure"])
def test_steps_as_pytorch(device: Any, name: str, closed: bool) -> None:
    if name == "LBFGS" and not closed:
        pytest.skip("LBFGS needs a closure")
    w, b = Tensor(W), Tensor(B)
    optimizer = Optimizer(
        getattr(torch.optim, name), [w, b], **OPTIONS.get(name, {"lr": 0.05})
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = _loss(w, b)
        loss.backward()
        return loss

    for _ in range(5):
        if closed:
            returned = optimizer.step(closure)
            assert np.isfinite(float(returned))
        else:
            closure()
            optimizer.step()
    want = _by_torch(name, 5)
    for got, expected in zip((w, b), want, strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=2e-4, atol=2e-5)


def test_memory_is_shared(device: Any) -> None:
    w, b = Tensor(W), Tensor(B)
    optimizer = Optimizer(torch.optim.Adam, [w, b], lr=0.1)
    seen: list[tuple[int, int]] = []

    def note(*_: Any) -> None:
        parameter = optimizer.param_groups[0]["params"][0]
        seen.append((parameter.data_ptr(), parameter.grad.data_ptr()))

    optimizer.optimizer.register_step_pre_hook(note)
    for _ in range(3):
        optimizer.zero_grad()
        _loss(w, b).backward()
        optimizer.step()
        assert seen[-1] == (_address(w), _address(w.grad))


def test_what_was_recorded_keeps_its_values(device: Any) -> None:
    """Every step writes beside the old values, whoever still waits to read them."""
    w = Tensor(W)
    optimizer = Optimizer(torch.optim.SGD, [w], lr=0.1)
    pending, want = [], []
    for _ in range(4):
        pending.append(w * 2)
        want.append(w.numpy() * 2)
        optimizer.zero_grad()
        w.square().sum().backward()
        optimizer.step()
    for late, expected in zip(pending, want, strict=True):
        np.testing.assert_array_equal(late.numpy(), expected)
    assert len({v.tobytes() for v in want}) == 4


def test_groups_schedules_and_state(one_cl_device: Any) -> None:
    w, b, c = Tensor(W), Tensor(B), Tensor([1.0])
    optimizer = Optimizer(
        torch.optim.SGD, [{"params": [w], "lr": 1.0}, {"params": b}], lr=0.1, momentum=0.5
    )
    optimizer.add_param_group({"params": c, "lr": 0.25})
    assert optimizer.params == [w, b, c]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.optimizer, step_size=1, gamma=0.5)
    for t in (w, b):
        t.sum().backward()  # c gets no gradient, and stays
    optimizer.step()
    scheduler.step()
    np.testing.assert_allclose(w.numpy(), W - 1.0, rtol=1e-6)
    np.testing.assert_allclose(b.numpy(), B - 0.1, rtol=1e-5)
    assert c.tolist() == [1.0]
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.05, 0.125]
    again = Optimizer(
        torch.optim.SGD, [{"params": [w]}, {"params": b}, {"params": c}], lr=9.0, momentum=0.5
    )
    again.load_state_dict(optimizer.state_dict())
    again.step()
    np.testing.assert_allclose(w.numpy(), W - 1.0 - 0.5 * 1.5, rtol=1e-5)


def test_a_device_of_its_own_memory(one_cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    limits = replace(one_cl_device.limits, host_memory=False)
    monkeypatch.setattr(one_cl_device, "limits", limits)
    test_steps_as_pytorch(one_cl_device, "Adam", False)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(device: Any, dtype: str) -> None:
    w = Tensor(W, dtype=dtype)
    before = w.numpy()
    optimizer = Optimizer(torch.optim.SGD, [w], lr=0.5)
    w.sum().backward()
    optimizer.step()
    assert w.dtype.name == dtype and w.requires_grad
    np.testing.assert_allclose(w.numpy(), before - 0.5, rtol=1e-2, atol=1e-2)


def test_memory_stays_flat(one_cl_device: Any) -> None:
    w, b = Tensor(W), Tensor(B)
    optimizer = Optimizer(torch.optim.Adam, [w, b], lr=0.1)
    sizes = []
    for _ in range(12):
        optimizer.zero_grad()
        _loss(w, b).backward()
        optimizer.step()
        sizes.append(sg.memory_stats()["in_use_bytes"])
    assert sizes[-1] == sizes[3]


def test_bad_parameters(one_cl_device: Any) -> None:
    w = Tensor(W)
    for bad in ([w * 2], [w, w], [Tensor([1, 2])], [{"params": [w]}, {"params": w}]):
        with pytest.raises(sg.AutogradError, match="parameter"):
            Optimizer(torch.optim.SGD, bad, lr=0.1)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(sg.SimplegradError, match=r"pip install torch"):
        Optimizer(lambda params, **options: None, [Tensor(W)])

"""netcl, which stands on PyOpenCL, over the driver under test: what it has functions for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from netcl import autograd as ag
from netcl import ops
from netcl.autograd import ops as ag_ops
from netcl.core.device import manager
from netcl.core.tensor import Tensor
from netcl.optim import Adam

from benchmarks.libraries.library import Library, Unsupported, maker
from benchmarks.workload import turns


class Netcl(Library):
    """`drivers.alone` has made the driver under test the first platform, which netcl takes."""

    def __init__(self) -> None:
        self.device = manager.default("auto")
        self.queue = self.device.queue

    def versions(self) -> dict[str, str]:
        return {"netcl": version("netcl"), "driver": self.device.platform_name}

    def place(self, array: Any) -> Any:
        return Tensor.from_host(self.queue, array)

    def wait(self, result: Any) -> None:
        self.queue.finish()

    def to_numpy(self, array: Any) -> Any:
        value = getattr(array, "value", array)
        return np.asarray((value() if callable(value) else value).to_host())

    def chain(self, x: Any) -> Any:
        node = ag.tensor(x)
        squares = ag_ops.add(ag_ops.mul(node, node), 1.0)
        negative = ag_ops.mul(ag_ops.relu(squares), -1.0)
        return ag_ops.sub(ag_ops.mul(ag_ops.exp(negative), 0.5), node)

    def sum(self, x: Any) -> Any:
        return ag_ops.sum(ag.tensor(x))

    def sum_axis0(self, x: Any) -> Any:
        return ag_ops.sum(ag.tensor(x), axis=0)

    def sum_axis1(self, x: Any) -> Any:
        return ag_ops.sum(ag.tensor(x), axis=1)

    def square_sum_axis1(self, x: Any) -> Any:
        return ag_ops.sum(ag_ops.square(ag.tensor(x)), axis=1)

    def softmax(self, x: Any) -> Any:
        return ag_ops.softmax(ag.tensor(x))

    def layer_norm(self, x: Any, w: Any, b: Any) -> Any:
        return ag_ops.layer_norm(ag.tensor(x), ag.tensor(w), ag.tensor(b))

    def einsum(self, spec: str, *operands: Any) -> Any:
        if spec != "ij,jk->ik":
            raise Unsupported("netcl has no einsum")
        return ops.matmul(*operands)

    def scores(self, q: Any, k: Any) -> Any:
        b, h, n, d = q.shape
        keys = ag_ops.permute(ag.shape_ops.reshape(ag.tensor(k), (b * h, n, d)), (0, 2, 1))
        queries = ag.shape_ops.reshape(ag.tensor(q), (b * h, n, d))
        return ag.shape_ops.reshape(ag_ops.bmm(queries, keys), (b, h, n, n))

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        nodes = (ag.tensor(a) for a in (q, k, v))
        return ag.shape_ops.flash_attention(*nodes, causal=False)

    def conv2d(self, x: Any, w: Any) -> Any:
        return ops.conv2d(x, w, pad=1)

    @maker
    def spiral(self, points: Any, y: Any, *params: Any) -> Callable[[], Any]:
        step = self._trained(params, 0.01)
        x, one_hot = self.place(points), self.place(y)
        return lambda: step(x, one_hot)

    @maker
    def classifier(self, images: Any, y: Any, *params: Any) -> Callable[[], Any]:
        step, batches = self._trained(params, 0.001), turns(len(images))

        def one() -> Any:
            i = batches()
            return step(self.place(images[i]), self.place(y[i]))

        return one

    def _trained(self, params: Any, learning_rate: float) -> Callable[..., Any]:
        tensors = [self.place(p) for p in params]
        for t in tensors:
            t.requires_grad = True
        optimizer = Adam(tensors, lr=learning_rate, eps=1e-7)

        def step(x: Any, one_hot: Any) -> Any:
            tape = ag.Tape()
            ag.set_current_tape(tape)
            w0, b0, w1, b1 = (ag.tensor(t, requires_grad=True) for t in tensors)
            hidden = ag_ops.relu(ag_ops.bias_add(ag_ops.matmul_op(ag.tensor(x), w0), b0))
            out = ag_ops.bias_add(ag_ops.matmul_op(hidden, w1), b1)
            loss = ag_ops.cross_entropy(out, ag.tensor(one_hot))
            optimizer.zero_grad()
            tape.backward(loss)
            for t, node in zip(tensors, (w0, b0, w1, b1), strict=True):
                t.grad = node.grad
            optimizer.step()
            ag.set_current_tape(None)
            return loss

        return step

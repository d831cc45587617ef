"""tinygrad on its OpenCL device, over the driver under test, every workload under TinyJit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tinygrad import Context, Device, Tensor, TinyJit
from tinygrad.nn.optim import Adam

from benchmarks.libraries.library import Unsupported, maker
from benchmarks.libraries.tinygrad_models import TinygradModels
from benchmarks.workload import turns

_MOST = 10**12


class Tinygrad(TinygradModels):
    """`drivers.alone` has made the driver under test the first platform, which ``CL`` takes."""

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        device = Device["CL"]
        return {"tinygrad": version("tinygrad"), "driver": device.driver_version}

    def place(self, array: Any) -> Any:
        return Tensor(array).realize()

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def realized(*operands: Any) -> Any:
            result = function(*operands)
            if isinstance(result, tuple):
                Tensor.realize(*result)
                return result
            return result.realize()

        made: Callable[..., Any] = TinyJit(realized)
        return made

    def wait(self, result: Any) -> None:
        Device["CL"].synchronize()

    def to_numpy(self, array: Any) -> Any:
        return array.numpy()

    def chain(self, x: Any) -> Any:
        return (-(x * x + 1).relu()).exp() * 0.5 - x

    def tanh_outer(self, a: Any, b: Any) -> Any:
        return (a.unsqueeze(1) * b).tanh()

    def sum(self, x: Any) -> Any:
        return x.sum()

    def sum_axis0(self, x: Any) -> Any:
        return x.sum(0)

    def sum_axis1(self, x: Any) -> Any:
        return x.sum(1)

    def square_sum_axis1(self, x: Any) -> Any:
        return (x * x).sum(1)

    def softmax(self, x: Any) -> Any:
        return x.softmax()

    def logsoftmax(self, x: Any) -> Any:
        return x.log_softmax()

    def layer_norm(self, x: Any, w: Any, b: Any) -> Any:
        return x.layernorm() * w + b

    def einsum(self, spec: str, *operands: Any) -> Any:
        if "..." in spec:  # whose broadcast batch its einsum refuses
            return operands[0] @ operands[1]
        extents = dict(
            zip(spec.replace(",", ""), (n for o in operands for n in o.shape), strict=False)
        )
        if math.prod(extents.values()) > _MOST:
            raise Unsupported("its einsum multiplies all operands at once, over every index")
        return Tensor.einsum(spec, *operands)

    def bias_gelu(self, a: Any, b: Any, bias: Any) -> Any:
        return (a @ b + bias).gelu(approximate="none")

    def scores(self, q: Any, k: Any) -> Any:
        return Tensor.einsum("ijkl,ijml->ijkm", q, k)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        return q.scaled_dot_product_attention(k, v)

    def conv2d(self, x: Any, w: Any) -> Any:
        return x.conv2d(w, padding=1)

    def conv2d_gradients(self, x: Any, w: Any, dy: Any) -> Any:
        y = x.conv2d(w, padding=1)
        return tuple(y.gradient(x, w, gradient=dy))

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
        tensors = [Tensor(p).realize() for p in params]
        w0, b0, w1, b1 = tensors
        optimizer = Adam(tensors, lr=learning_rate, eps=1e-7)

        def step(x: Any, one_hot: Any) -> Any:
            with Context(TRAINING=1):
                out = (x @ w0 + b0).relu() @ w1 + b1
                loss = -(one_hot * out.log_softmax()).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                return loss.realize(*optimizer.schedule_step())

        made: Callable[..., Any] = TinyJit(step)
        return made

    def encoder_layer(self, x: Any, dy: Any, *params: Any) -> Any:
        out = _encoder_layer(x, *params)
        return out, *out.gradient(x, *params, gradient=dy)


def _encoder_layer(
    x: Any, wq: Any, wk: Any, wv: Any, wo: Any, w1: Any, b1: Any, w2: Any, b2: Any,
    g1: Any, h1: Any, g2: Any, h2: Any,
) -> Any:  # fmt: skip
    batch, tokens, width = x.shape
    n = x.layernorm() * g1 + h1
    q, k, v = ((n @ w).reshape(batch, tokens, 8, -1).transpose(1, 2) for w in (wq, wk, wv))
    mixed = q.scaled_dot_product_attention(k, v).transpose(1, 2).reshape(batch, tokens, width)
    x = x + mixed @ wo
    n = x.layernorm() * g2 + h2
    return x + (n @ w1 + b1).relu() @ w2 + b2

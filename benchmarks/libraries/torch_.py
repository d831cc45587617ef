"""PyTorch on the CPU, op by op and through torch.compile."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.libraries.library import maker
from benchmarks.libraries.torch_models import TorchModels
from benchmarks.workload import turns


class Torch(TorchModels):
    """As many threads as there are cores."""

    def __init__(self) -> None:
        torch.set_num_threads(os.cpu_count() or 1)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def place(self, array: Any) -> Any:
        return torch.from_numpy(array)

    def wait(self, result: Any) -> None:
        """Nothing: on the CPU, PyTorch returns when it is done."""

    def to_numpy(self, array: Any) -> Any:
        return array.detach().numpy()

    def chain(self, x: Any) -> Any:
        return torch.exp(-F.relu(x * x + 1)) * 0.5 - x

    def tanh_outer(self, a: Any, b: Any) -> Any:
        return torch.tanh(torch.outer(a, b))

    def sum(self, x: Any) -> Any:
        return x.sum()

    def sum_axis0(self, x: Any) -> Any:
        return x.sum(0)

    def sum_axis1(self, x: Any) -> Any:
        return x.sum(1)

    def square_sum_axis1(self, x: Any) -> Any:
        return (x * x).sum(1)

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x, -1)

    def logsoftmax(self, x: Any) -> Any:
        return torch.log_softmax(x, -1)

    def layer_norm(self, x: Any, w: Any, b: Any) -> Any:
        return F.layer_norm(x, x.shape[-1:], w, b)

    def einsum(self, spec: str, *operands: Any) -> Any:
        return torch.einsum(spec, *operands)

    def bias_gelu(self, a: Any, b: Any, bias: Any) -> Any:
        return F.gelu(torch.addmm(bias, a, b))

    def scores(self, q: Any, k: Any) -> Any:
        return torch.einsum("ijkl,ijml->ijkm", q, k)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v)

    def conv2d(self, x: Any, w: Any) -> Any:
        return F.conv2d(x, w, padding=1)

    @maker
    def conv2d_gradients(self, x: Any, w: Any, dy: Any) -> Callable[[], Any]:
        image, filters = (torch.from_numpy(a).requires_grad_() for a in (x, w))
        upstream = torch.from_numpy(dy)
        y = self.compiled(self.conv2d)(image, filters)  # recorded once: only gradients are timed
        return lambda: torch.autograd.grad(y, (image, filters), upstream, retain_graph=True)

    @maker
    def spiral(self, points: Any, y: Any, *params: Any) -> Callable[[], Any]:
        step = self._trained(params, 0.01)
        x, one_hot = torch.from_numpy(points), torch.from_numpy(y)
        return lambda: step(x, one_hot)

    @maker
    def classifier(self, images: Any, y: Any, *params: Any) -> Callable[[], Any]:
        step, batches = self._trained(params, 0.001), turns(len(images))

        def one() -> Any:
            i = batches()
            return step(torch.from_numpy(images[i]), torch.from_numpy(y[i]))

        return one

    def _trained(self, params: Any, learning_rate: float) -> Callable[..., Any]:
        tensors = [torch.from_numpy(p.copy()).requires_grad_() for p in params]
        optimizer = torch.optim.Adam(tensors, lr=learning_rate, eps=1e-7)
        loss_of = self.compiled(_loss)

        def step(x: Any, one_hot: Any) -> Any:
            loss = loss_of(x, one_hot, *tensors)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        return step

    @maker
    def encoder_layer(self, x: Any, dy: Any, *params: Any) -> Callable[[], Any]:
        wanted = [torch.from_numpy(a).requires_grad_() for a in (x, *params)]
        upstream, layer = torch.from_numpy(dy), self.compiled(_encoder_layer)

        def run() -> Any:
            out = layer(*wanted)
            return out, *torch.autograd.grad(out, wanted, upstream)

        return run


class TorchCompile(Torch):
    """The same code through torch.compile, in its default mode."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        torch._dynamo.reset()
        made: Callable[..., Any] = torch.compile(function)
        return made


def _loss(x: Any, one_hot: Any, w0: Any, b0: Any, w1: Any, b1: Any) -> Any:
    out = F.relu(x @ w0 + b0) @ w1 + b1
    return F.cross_entropy(out, one_hot)


def _encoder_layer(
    x: Any, wq: Any, wk: Any, wv: Any, wo: Any, w1: Any, b1: Any, w2: Any, b2: Any,
    g1: Any, h1: Any, g2: Any, h2: Any,
) -> Any:  # fmt: skip
    batch, tokens, width = x.shape
    n = F.layer_norm(x, (width,), g1, h1)
    q, k, v = ((n @ w).view(batch, tokens, 8, -1).transpose(1, 2) for w in (wq, wk, wv))
    mixed = F.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(width // 8))
    x = x + mixed.transpose(1, 2).reshape(batch, tokens, width) @ wo
    n = F.layer_norm(x, (width,), g2, h2)
    return x + F.relu(n @ w1 + b1) @ w2 + b2

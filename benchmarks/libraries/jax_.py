"""JAX on the CPU, every workload one jitted function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.libraries.library import Library, maker
from benchmarks.workload import turns


class Jax(Library):
    """Waits with block_until_ready."""

    def versions(self) -> dict[str, str]:
        return {"jax": jax.__version__}

    def place(self, array: Any) -> Any:
        return jnp.asarray(array)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = jax.jit(function)
        return made

    def wait(self, result: Any) -> None:
        jax.block_until_ready(result)

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def chain(self, x: Any) -> Any:
        return jnp.exp(-jax.nn.relu(x * x + 1)) * 0.5 - x

    def tanh_outer(self, a: Any, b: Any) -> Any:
        return jnp.tanh(jnp.outer(a, b))

    def sum(self, x: Any) -> Any:
        return x.sum()

    def sum_axis0(self, x: Any) -> Any:
        return x.sum(axis=0)

    def sum_axis1(self, x: Any) -> Any:
        return x.sum(axis=1)

    def square_sum_axis1(self, x: Any) -> Any:
        return (x * x).sum(axis=1)

    def softmax(self, x: Any) -> Any:
        return jax.nn.softmax(x)

    def logsoftmax(self, x: Any) -> Any:
        return jax.nn.log_softmax(x)

    def layer_norm(self, x: Any, w: Any, b: Any) -> Any:
        return _layer_norm(x, w, b)

    def einsum(self, spec: str, *operands: Any) -> Any:
        return jnp.einsum(spec, *operands)

    def bias_gelu(self, a: Any, b: Any, bias: Any) -> Any:
        return jax.nn.gelu(a @ b + bias, approximate=False)

    def scores(self, q: Any, k: Any) -> Any:
        return jnp.einsum("ijkl,ijml->ijkm", q, k)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        scores = jnp.einsum("ijkl,ijml->ijkm", q, k) * q.shape[-1] ** -0.5
        return jax.nn.softmax(scores) @ v

    def conv2d(self, x: Any, w: Any) -> Any:
        return jax.lax.conv(x, w, (1, 1), "SAME")

    def conv2d_gradients(self, x: Any, w: Any, dy: Any) -> Any:
        return jax.vjp(self.conv2d, x, w)[1](dy)

    @maker
    def spiral(self, points: Any, y: Any, *params: Any) -> Callable[[], Any]:
        step = _trained(params, 0.01)
        x, one_hot = jnp.asarray(points), jnp.asarray(y)
        return lambda: step(x, one_hot)

    @maker
    def classifier(self, images: Any, y: Any, *params: Any) -> Callable[[], Any]:
        step, batches = _trained(params, 0.001), turns(len(images))

        def one() -> Any:
            i = batches()
            return step(images[i], y[i])

        return one

    def encoder_layer(self, x: Any, dy: Any, *params: Any) -> Any:
        out, back = jax.vjp(_encoder_layer, x, *params)
        return out, *back(dy)


def _layer_norm(x: Any, w: Any, b: Any) -> Any:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-5) * w + b


def _loss(params: Any, x: Any, one_hot: Any) -> Any:
    w0, b0, w1, b1 = params
    out = jax.nn.relu(x @ w0 + b0) @ w1 + b1
    return -(one_hot * jax.nn.log_softmax(out)).sum(axis=1).mean()


def _trained(params: Any, learning_rate: float) -> Callable[..., Any]:
    """Return a training step: one jitted function of everything that Adam keeps."""

    def update(state: Any, x: Any, one_hot: Any) -> Any:
        params, means, squares, count = state
        loss, gradients = jax.value_and_grad(_loss)(params, x, one_hot)
        count = count + 1
        means = jax.tree.map(lambda m, g: m + 0.1 * (g - m), means, gradients)
        squares = jax.tree.map(lambda s, g: s + 0.001 * (g * g - s), squares, gradients)
        rate, unbias = learning_rate / (1 - 0.9**count), 1 - 0.999**count
        params = jax.tree.map(
            lambda p, m, s: p - rate * m / (jnp.sqrt(s / unbias) + 1e-7), params, means, squares
        )
        return (params, means, squares, count), loss

    jitted = jax.jit(update, donate_argnums=0)
    weights = [jnp.array(p) for p in params]
    zeros = [[jnp.zeros_like(w) for w in weights] for _ in range(2)]
    state: Any = (weights, *zeros, jnp.float32(0))

    def step(x: Any, one_hot: Any) -> Any:
        nonlocal state
        state, loss = jitted(state, x, one_hot)
        return loss, state

    return step


def _encoder_layer(
    x: Any, wq: Any, wk: Any, wv: Any, wo: Any, w1: Any, b1: Any, w2: Any, b2: Any,
    g1: Any, h1: Any, g2: Any, h2: Any,
) -> Any:  # fmt: skip
    batch, tokens, width = x.shape
    each = width // 8
    n = _layer_norm(x, g1, h1)
    q, k, v = ((n @ w).reshape(batch, tokens, 8, each) for w in (wq, wk, wv))
    scores = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", q, k) * each**-0.5)
    mixed = jnp.einsum("bhij,bjhd->bihd", scores, v).reshape(batch, tokens, width)
    x = x + mixed @ wo
    n = _layer_norm(x, g2, h2)
    return x + jax.nn.relu(n @ w1 + b1) @ w2 + b2

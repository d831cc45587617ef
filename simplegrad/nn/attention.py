"""Attention and transformer encoder layers (Vaswani et al., "Attention is all you need", 2017).

Sequences are (batch, time, width). Parameters have the names and shapes of ``torch.nn``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simplegrad import dtypes
from simplegrad.arguments import flag, function, integer
from simplegrad.errors import DTypeError, ShapeError
from simplegrad.nn import init
from simplegrad.nn.layers import Dropout, Linear
from simplegrad.nn.module import Array, Module
from simplegrad.nn.norm import LayerNorm
from simplegrad.tensor.attention import scaled_dot_product_attention
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.tensor import Tensor


class MultiHeadAttention(Module):
    """Attention in `heads` parts of a width, between projections.

    One weight, (3 width, width), holds the projections to queries, keys and values.
    """

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        width = integer("MultiHeadAttention: width", width, 1)
        heads = integer("MultiHeadAttention: heads", heads, 1)
        if width % heads:
            raise ShapeError(
                f"MultiHeadAttention: width {width} does not divide into {heads} heads"
            )
        self.heads, bias = heads, flag("MultiHeadAttention: bias", bias)
        self.in_proj_weight = init.xavier_uniform((3 * width, width))
        self.in_proj_bias = init.zeros(3 * width) if bias else None
        self.out_proj = Linear(width, width, bias)
        if bias:
            self.out_proj.bias = init.zeros(width)

    def __call__(
        self, query: Array, memory: Array | None = None, mask: Any = None, causal: bool = False
    ) -> Tensor:
        """Return (batch, time, width): what each place of `query` takes from `memory`.

        `memory`, (batch, other time, width), is the query itself unless given. `mask`, of bools,
        is (batch, memory's time), True at places that may be looked at, or has four axes that
        broadcast to (batch, heads, time, memory's time).
        """
        query = self._sequence("query", query)
        if memory is None:
            parts = self._project(query, 0, 3)
        else:
            memory = self._sequence("memory", memory)
            parts = self._project(query, 0, 1) + self._project(memory, 1, 3)
        mask = _mask(mask, (query.shape[0], parts[1].shape[2]))
        q, k, v = parts
        mixed = scaled_dot_product_attention(q, k, v, mask, causal)
        return self.out_proj(mixed.permute(0, 2, 1, 3).reshape(query.shape))

    def _sequence(self, name: str, x: Array) -> Tensor:
        x = as_tensor(x)
        width = self.in_proj_weight.shape[1]
        if x.ndim != 3 or x.shape[-1] != width:
            raise ShapeError(
                f"MultiHeadAttention: {name} is (batch, time, {width}), got shape {x.shape}"
            )
        return x

    def _project(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """Return projections number `first` … `last` - 1, each (batch, heads, time, d)."""
        batch, time, width = x.shape
        whole = last - first == 3
        rows = slice(first * width, last * width)
        weight = self.in_proj_weight if whole else self.in_proj_weight[rows]
        out = x.einsum("bti,oi->bto", weight)
        if self.in_proj_bias is not None:
            out = out.add(self.in_proj_bias if whole else self.in_proj_bias[rows])
        split = out.reshape(batch, time, last - first, self.heads, width // self.heads)
        return [split[:, :, i].permute(0, 2, 1, 3) for i in range(last - first)]


def _mask(mask: Any, shape: tuple[int, int]) -> Any:
    """Return a mask with four axes, or None."""
    if mask is None:
        return None
    mask = as_tensor(mask)
    if mask.dtype is not dtypes.bool_:
        raise DTypeError(
            f"MultiHeadAttention: the mask is {mask.dtype}; it must be bool, True where a place "
            "may be looked at"
        )
    if mask.ndim == 4:
        return mask
    if mask.shape != shape:
        raise ShapeError(
            f"MultiHeadAttention: a mask of shape {mask.shape} fits neither {shape} (batch, time) "
            "nor four axes"
        )
    return mask.reshape(shape[0], 1, 1, shape[1])


class TransformerEncoderLayer(Module):
    """Self-attention and a network of one hidden layer, each added to its input.

    `norm_first` normalises before the two parts, else after them, as the paper (and BERT) does.
    """

    def __init__(
        self, width: int, heads: int, hidden: int | None = None, dropout: float = 0.1,
        activation: Callable[[Any], Any] = Tensor.gelu, norm_first: bool = False,
        eps: float = 1e-5,
    ) -> None:  # fmt: skip
        width = integer("TransformerEncoderLayer: width", width, 1)
        hidden = 4 * width if hidden is None else hidden
        function("TransformerEncoderLayer: activation", activation)
        self.self_attn = MultiHeadAttention(width, heads)
        self.linear1, self.linear2 = Linear(width, hidden), Linear(hidden, width)
        self.norm1, self.norm2 = LayerNorm(width, eps), LayerNorm(width, eps)
        self.dropout = Dropout(dropout)
        self.activation = activation
        self.norm_first = flag("TransformerEncoderLayer: norm_first", norm_first)

    def __call__(self, x: Array, mask: Any = None, causal: bool = False) -> Tensor:
        """Return (batch, time, width); `mask` and `causal` as in `MultiHeadAttention`."""
        x = as_tensor(x)
        if self.norm_first:
            x = x.add(self._mixed(self.norm1(x), mask, causal))
            return x.add(self._deepened(self.norm2(x)))
        x = self.norm1(x.add(self._mixed(x, mask, causal)))
        return self.norm2(x.add(self._deepened(x)))

    def _mixed(self, x: Tensor, mask: Any, causal: bool) -> Tensor:
        return self.dropout(self.self_attn(x, mask=mask, causal=causal))

    def _deepened(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.dropout(self.linear2(hidden))


class TransformerEncoder(Module):
    """`depth` encoder layers in a row; the options are those of `TransformerEncoderLayer`.

    With `norm_first` a last normalisation follows, ``norm``.
    """

    def __init__(self, depth: int, width: int, heads: int, **options: Any) -> None:
        depth = integer("TransformerEncoder: depth", depth, 1)
        self.layers = [TransformerEncoderLayer(width, heads, **options) for _ in range(depth)]
        norm_first = options.get("norm_first", False)
        self.norm = LayerNorm(width, options.get("eps", 1e-5)) if norm_first else None

    def __call__(self, x: Array, mask: Any = None, causal: bool = False) -> Tensor:
        """Return (batch, time, width); `mask` and `causal` as in `MultiHeadAttention`."""
        x = as_tensor(x)
        for layer in self.layers:
            x = layer(x, mask, causal)
        return x if self.norm is None else self.norm(x)

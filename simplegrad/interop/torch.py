"""PyTorch's optimisers on simplegrad's parameters.

::

    import torch
    from simplegrad.interop.torch import Optimizer

    optimizer = Optimizer(torch.optim.AdamW, [w, b], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer.optimizer, 30)
    ...
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

Forward and backward passes stay simplegrad's. PyTorch has the values and gradients during a step
only, as tensors of the host. Where the host sees the device's memory (NumPy, OpenCL CPU devices)
they stand where they are: PyTorch writes into a copy made by the plan that computes the gradients,
and that becomes the parameter's memory; the old values stay, for graphs recorded before may still
read them. From other devices, and for bfloat16 (stepped in float32), values and gradients are
copied to the host and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from simplegrad import ops
from simplegrad.errors import AutogradError, SimplegradError
from simplegrad.graph.node import Node, leaf_over, make
from simplegrad.graph.prune import prune
from simplegrad.runtime.realize import from_numpy, realize


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise SimplegradError(
            f"interop.torch: PyTorch cannot be imported ({error}); run: pip install torch"
        ) from error
    return torch


class _Pair:
    """A parameter here, and the one that PyTorch steps in its place."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.copy: Node | None = None
        self.shared = _view(tensor._node) is not None
        self.parameter = _torch().nn.Parameter(_torch().from_numpy(tensor.numpy()))

    def targets(self) -> list[Node]:
        """Return what PyTorch will see: the values, as a copy to be written, and the gradient."""
        node: Node = self.tensor._node
        if self.shared:
            node = self.copy = make(ops.RESHAPE, (node,), node.shape)
        grad = self.tensor.grad
        return [node] if grad is None else [node, grad._node]

    def take(self) -> None:
        """Show PyTorch the values, and the gradient, once they are computed."""
        torch, grad = _torch(), self.tensor.grad
        values = self.tensor.numpy() if self.copy is None else _view(self.copy, writable=True)
        self.parameter.data = torch.from_numpy(values)
        self.parameter.grad = None
        if grad is not None:
            # Writable in name only, for PyTorch knows nothing else: optimisers read gradients.
            host = _view(grad._node, writable=True) if self.shared else None
            host = torch.from_numpy(grad.numpy() if host is None else host)
            self.parameter.grad = host.to(self.parameter.dtype)

    def give(self) -> None:
        """Make the values that PyTorch left the tensor's, which becomes a fresh leaf."""
        node: Node = self.tensor._node
        if self.copy is None:
            new = from_numpy(self.parameter.detach().numpy(), node.dtype, node.device)
        else:
            new = leaf_over(self.copy.buffer, node.kind.spec, node.device)
            self.copy = None
        self.tensor._replace(new)
        # Memory that PyTorch may write is not to be read here: outside of a step it has none.
        self.parameter.grad, self.parameter.data = None, self.parameter.data.new_empty(0)


def _view(node: Node, writable: bool = False) -> Any:
    return node.device.share(node.buffer, node.dtype, node.shape, writable)


class Optimizer:
    """Steps tensors with an optimiser class of `torch.optim`.

    `factory` is that class; `params` are leaf tensors, or groups of them as PyTorch takes them,
    ``[{"params": [w], "lr": 0.1}, ...]``; options go to the class. ``.optimizer`` is PyTorch's
    own object, for schedulers and hooks; ``param_groups`` are its groups.

    Raises `AutogradError` for a parameter that is no leaf that tracks gradients, or stands twice.
    """

    def __init__(self, factory: Callable[..., Any], params: Iterable[Any], **options: Any) -> None:
        self._pairs: list[_Pair] = []
        given = list(params)
        if given and isinstance(given[0], dict):
            self.optimizer = factory([self._group(g) for g in given], **options)
        else:
            self.optimizer = factory(self._group({"params": given})["params"], **options)

    @property
    def params(self) -> list[Any]:
        """The tensors that are stepped, in order."""
        return [pair.tensor for pair in self._pairs]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """PyTorch's groups: settings such as ``lr`` may be read and changed here."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return groups

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Step more tensors, with settings of their own."""
        self.optimizer.add_param_group(self._group(group))

    def _group(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return a group with PyTorch's parameters in place of tensors."""
        given = group["params"]
        tensors = list(given) if isinstance(given, (list, tuple)) else [given]
        known = {id(pair.tensor) for pair in self._pairs}
        for i, tensor in enumerate(tensors):
            node = tensor._node
            if not node.tracks or node.leaf is None or id(tensor) in known:
                raise AutogradError(
                    f"interop.torch: parameter {i} of shape {tensor.shape} must be a leaf tensor "
                    "that tracks gradients, such as Tensor(data), and stand in one group once"
                )
            known.add(id(tensor))
        realize([tensor._node for tensor in tensors])
        pairs = [_Pair(tensor) for tensor in tensors]
        self._pairs += pairs
        return {**group, "params": [pair.parameter for pair in pairs]}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for pair in self._pairs:
            pair.tensor.grad = None
            pair.parameter.grad = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every tensor that has a gradient; what was recorded before keeps the old values.

        `closure` computes the loss anew and calls its ``backward()``; optimisers such as
        `torch.optim.LBFGS` call it several times. Its first loss is returned.
        """
        if closure is None:
            taken = self._take([p for p in self._pairs if p.tensor.grad is not None])
            self.optimizer.step()
            self._give(taken)
            return None

        def evaluate() -> Any:
            self._give(self._pairs)
            loss = closure()
            self._take(self._pairs)
            return _torch().tensor(float(loss))

        self._take(self._pairs)
        loss = self.optimizer.step(evaluate)
        self._give(self._pairs)
        return loss

    def _take(self, pairs: list[_Pair]) -> list[_Pair]:
        """Compute values and gradients as one plan, with the loss, which its holder will read."""
        nodes = [node for pair in pairs for node in pair.targets()]
        nodes += dict.fromkeys(n for pair in pairs for n in pair.tensor._beside())
        self._computed = realize(nodes)
        for pair in pairs:
            pair.take()
        return pairs

    def _give(self, pairs: list[_Pair]) -> None:
        for pair in pairs:
            pair.give()
        prune(self._computed)
        self._computed = []

    def state_dict(self) -> dict[str, Any]:
        """Return PyTorch's state, in its form."""
        state: dict[str, Any] = self.optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` returned, or the same optimiser in PyTorch."""
        self.optimizer.load_state_dict(state)

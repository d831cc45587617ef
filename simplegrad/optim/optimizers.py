"""Optimisers: every step is recorded as one graph and computed at once.

Numbers that change (learning rate, bias corrections) are kernel arguments shared by all
parameters, so no step compiles anything after the first; small parameters share launches. A step
makes its parameters fresh leaves: what was recorded before no longer leads to them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Concatenate, ParamSpec

import numpy as np

from simplegrad import ops
from simplegrad.arguments import flag, mapping, real, several
from simplegrad.dtypes import DType
from simplegrad.errors import ArgumentError, AutogradError, ShapeError, SimplegradError
from simplegrad.graph.build import apply
from simplegrad.graph.node import Node, Spec, make, scalar
from simplegrad.graph.stencil import Table, over_folded, sort_of
from simplegrad.runtime import recording
from simplegrad.runtime.donation import EXPLAINED, counts
from simplegrad.runtime.realize import from_numpy, realize, to_numpy

P = ParamSpec("P")
Rate = float | Callable[[int], float]
_Found = tuple[int, Any, Node]
"""A parameter's number, the parameter, and its gradient."""
_Update = tuple[int, Any, Node, tuple[Node, ...]]
"""A parameter's number, the parameter, its new value and its new state."""
_updates = Table()


class Numbers:
    """The numbers of one step as zero-dimensional nodes: one per name, dtype and device.

    Two numbers of different names are two nodes even where they are equal, so that a schedule
    passing through the value of another number leaves the graph, and its plan, as they are.
    """

    def __init__(self, makes: Mapping[str, Callable[[], float]]) -> None:
        self._values = {name: recording.number(make) for name, make in makes.items()}
        """Made now, and by every replay."""
        self._nodes: dict[tuple[DType, Any], dict[str, Node]] = {}

    def _like(self, node: Node) -> dict[str, Node]:
        key = (node.kind.spec.dtype, node.device)
        found = self._nodes.get(key)
        if found is None:
            spec = Spec.of((), key[0])
            found = self._nodes[key] = {
                name: scalar(value, spec, node.device) for name, value in self._values.items()
            }
        return found

    def of(self, name: str, like: Node) -> Node:
        """Return a number repeated to the shape of `like`, in its dtype and on its device."""
        number = self._like(like)[name]
        # Not as another number: all parameters share one, which kernels get once.
        return make(ops.EXPAND, (number,), like.shape) if like.shape else number

    def all(self, likes: Iterable[Node]) -> list[Node]:
        """Return all numbers of this step with the dtypes and on the devices of `likes`."""
        groups = {id(same): same for same in map(self._like, likes)}
        return [number for same in groups.values() for number in same.values()]


def parameters_of(name: str, params: Any) -> list[Any]:
    """Return parameters as a list; `AutogradError` for none, or for what is no tensor."""
    if hasattr(params, "_node"):
        raise AutogradError(f"{name}: got a single tensor; pass a list of tensors, such as [w, b]")
    result = several(f"{name}: params", params)
    if not result:
        raise AutogradError(f"{name}: the list of parameters is empty; there is nothing to train")
    for i, p in enumerate(result):
        if not hasattr(p, "_node"):
            raise AutogradError(f"{name}: parameter {i} is a {type(p).__name__}, not a tensor")
    return result


_ELSEWHERE = {"lr": "learning_rate", "eps": "epsilon", "betas": "beta1, beta2", "alpha": "decay"}
"""Other libraries' names of settings, and ours."""


def _checked(init: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """Let a setting that an optimiser does not have be an error that names those it has."""
    known = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def __init__(self: Any, /, *args: P.args, **settings: P.kwargs) -> None:
        for name in settings:
            if name not in known:
                mine = _ELSEWHERE.get(name, ", ".join(known))
                raise ArgumentError(f"{type(self).__name__}: takes no {name!r}; it takes {mine}")
        init(self, *args, **settings)

    return __init__


_Checks = dict[str, Callable[[str, Any], None]]


def _not_negative(name: str, value: Any) -> None:
    real(name, value, 0)


def _below_one(name: str, value: Any) -> None:
    if not 0 <= real(name, value) < 1:
        raise ArgumentError(f"{name}={value} must be at least 0 and less than 1")


def _rate(name: str, value: Any) -> None:
    if not callable(value):
        real(name, value, 0)


class Optimizer:
    """Base: `params` are leaf tensors; `learning_rate` is a number or a schedule of the step.

    Settings may be changed between steps, and are checked whenever they are set.
    """

    checks: ClassVar[_Checks] = {
        "learning_rate": _rate, "weight_decay": _not_negative,
    }  # fmt: skip
    """What raises `ArgumentError` for a bad value, by setting."""

    names: tuple[str, ...] = ()
    """The state kept per parameter, each of the parameter's shape, zero at first.

    To be set before `__init__`, which makes it.
    """

    def __init__(self, params: Iterable[Any], learning_rate: Rate, weight_decay: float) -> None:
        self.params = parameters_of(type(self).__name__, params)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        seen: set[int] = set()
        for i, p in enumerate(self.params):
            if not p._node.tracks or p._node.leaf is None:
                raise AutogradError(
                    f"{type(self).__name__}: parameter {i}, {p.dtype} of shape {p.shape}, is not a "
                    "leaf tensor that tracks gradients; pass Tensor(data) of floats itself, not a "
                    "result"
                )
            if id(p) in seen:
                raise AutogradError(
                    f"{type(self).__name__}: parameter {i} of shape {p.shape} stands in the list "
                    "twice; pass every parameter once"
                )
            seen.add(id(p))
        self.steps = 0
        recording.refuse(f"makes {type(self).__name__}, whose state lasts", "make it outside")
        self.state: dict[int, tuple[Node, ...]] = {
            i: self._zeros(p._node) for i, p in enumerate(self.params)
        }

    def __setattr__(self, name: str, value: Any) -> None:
        check, mine = self.checks.get(name), _ELSEWHERE.get(name)
        if check is not None:
            check(f"{type(self).__name__}: {name}", value)
        elif mine is not None:
            raise ArgumentError(f"{type(self).__name__}: has no {name!r}; it has {mine}")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        state = {i: [to_numpy(n) for n in nodes] for i, nodes in self.state.items()}
        return {**vars(self), "state": state}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        vars(self).update(saved)
        self.state = {
            i: tuple([from_numpy(a, p.dtype, p._node.device) for a in saved["state"][i]])
            for i, p in enumerate(self.params)
        }

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        rate = self.learning_rate
        value = rate(self.steps) if callable(rate) else rate
        return float(real(f"{type(self).__name__}: learning_rate", value))

    def zero_grad(self) -> None:
        """Forget the gradients; the next backward pass starts new ones."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient; everything runs as one plan.

        A step that fails, or that Ctrl-C ends before its kernels are enqueued, was none.
        """
        found = [(i, p, g._node) for i, p in enumerate(self.params) if (g := p.grad) is not None]
        updates = self._updated(found, Numbers(self.makes()))
        recording.repeat(self._count)
        targets = [n for _, _, new, state in updates for n in (new, *state)]
        # Whoever holds the loss will read it: it is computed along, from what is at hand.
        targets += dict.fromkeys(n for _, p, _, _ in updates for n in p._beside())
        done = self.steps + 1
        leaves = [p._node.leaf for _, p, _, _ in updates]
        try:
            for _, p, _, _ in updates:
                p._node.leaf = None  # no gradient reaches what a step replaces
            realize(targets, self._replaced(updates))
            self._take(updates, done)
        except BaseException:
            if updates and updates[0][2].buffer is not None:
                self._take(updates, done)  # all that Ctrl-C left to do
            else:
                for (_, p, _, _), leaf in zip(updates, leaves, strict=True):
                    p._node.leaf = leaf
            raise

    def _updated(self, found: Sequence[_Found], numbers: Numbers) -> list[_Update]:
        """Return the updates of the parameters that have a gradient, as `update` makes them."""
        devices = {n.device for i, p, g in found for n in (p._node, g, *self.state[i])}
        if type(self).__module__ == __name__ and len(devices) == 1:
            return self._stamped(found, numbers)
        return [(i, p, *self.update(p._node, g, self.state[i], numbers)) for i, p, g in found]

    def _stamped(
        self, found: Sequence[_Found], numbers: Numbers, fold: bool = True
    ) -> list[_Update]:
        """As `_updated`: what was made of nodes of the same kinds before is stamped, or folded.

        All parameters are stamped together, or, until they were met together twice, one by one.
        """
        leaves = [n for i, p, g in found for n in (p._node, g, *self.state[i])]
        inputs = leaves + numbers.all([p._node for _, p, _ in found])
        same = tuple(map(leaves.index, leaves)) if len({*leaves}) < len(leaves) else ()
        form = type(self), self.names, self.weight_decay == 0, getattr(self, "nesterov", False)
        key = (form, same, *[g.tracks for _, _, g in found], *map(sort_of, leaves))
        stencil = _updates.find(key)
        if stencil is not None:
            device = leaves[0].device
            # Where a sweep was not folded, its shapes are new: a plan is made of the plain graph.
            may = fold and recording.may_fold(device) and all(over_folded(g) for _, _, g in found)
            made = (stencil.fold if may else stencil.stamp)(inputs, device)
            each = 1 + len(self.names)
            return [
                (i, p, made[k], tuple(made[k + 1 : k + each]))
                for (i, p, _), k in zip(found, range(0, len(made), each), strict=True)
            ]
        updates: list[_Update] = []
        for i, p, g in found:
            if len(found) == 1:
                updates += [(i, p, *self.update(p._node, g, self.state[i], numbers))]
            else:
                updates += self._stamped([(i, p, g)], numbers, fold=False)
        _updates.learn(key, inputs, [n for _, _, new, state in updates for n in (new, *state)])
        return updates

    def _replaced(self, updates: Sequence[_Update]) -> set[Node]:
        """Return the nodes that only this optimiser holds, and lets go after the step."""
        states = [self.state[i] for i, *_ in updates]
        own = [s for s, n in zip(states, counts(states), strict=True) if n == EXPLAINED]
        return {n for s in own for n in s} | {p._node for _, p, _, _ in updates}

    def _take(self, updates: Sequence[_Update], done: int) -> None:
        """Let parameters and state be what a step computed; may be called again after Ctrl-C."""
        for i, p, new, state in updates:
            self.state[i] = state
            if p._node.leaf is None:  # a fresh leaf was replaced before
                p._replace(new)
        self.steps = done

    def _count(self) -> None:
        self.steps += 1

    def _zeros(self, p: Node) -> tuple[Node, ...]:
        """Return zeros in memory; of constants the first step would make kernels of its own."""
        return tuple(
            from_numpy(np.zeros(p.shape, p.dtype.numpy), p.dtype, p.device) for _ in self.names
        )

    def makes(self) -> dict[str, Callable[[], float]]:
        """Return what makes the numbers of a step, by name; replays of `jit` call it again."""
        makes: dict[str, Callable[[], float]] = {"rate": lambda: self.rate}
        if self.weight_decay:
            makes["decay"] = lambda: self.weight_decay
        return makes

    def update(
        self, p: Node, g: Node, state: tuple[Node, ...], numbers: Numbers
    ) -> tuple[Node, tuple[Node, ...]]:
        """Return the new parameter and its new state as lazy nodes; `numbers` are of `makes`."""
        raise NotImplementedError

    def _decayed(self, p: Node, g: Node, numbers: Numbers) -> Node:
        """Return the gradient with L2 regularisation added."""
        if not self.weight_decay:
            return g
        return apply(ops.ADD, g, apply(ops.MUL, p, numbers.of("decay", p)))

    def _shrunk(self, p: Node, numbers: Numbers) -> Node:
        """Return the parameter after decoupled weight decay (Loshchilov and Hutter, 2019)."""
        if not self.weight_decay:
            return p
        return apply(ops.MUL, p, numbers.of("decay", p))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and every state array, as NumPy arrays by name."""
        arrays = {
            f"{i}.{name}": to_numpy(node)
            for i, nodes in self.state.items()
            for name, node in zip(self.names, nodes, strict=True)
        }
        return {"steps": self.steps, **arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` returned; raises `ShapeError` listing all that does not fit."""
        mapping("load_state_dict: the state", state)
        known = {"steps", *[f"{i}.{n}" for i in range(len(self.params)) for n in self.names]}
        faults = [f"{key} belongs to no parameter here" for key in state if key not in known]
        if "steps" not in state:
            faults.append("steps is missing")
        loaded: dict[int, tuple[Node, ...]] = {}
        for i, p in enumerate(self.params):
            arrays = [np.asarray(state[k]) for n in self.names if (k := f"{i}.{n}") in state]
            if arrays and len(arrays) != len(self.names):
                faults.append(f"parameter {i} lacks some of {self.names}")
            elif any(a.shape != p.shape for a in arrays):
                faults.append(f"parameter {i} has shape {p.shape}, its state {arrays[0].shape}")
            elif arrays:
                node = p._node
                loaded[i] = tuple(from_numpy(a, node.dtype, node.device) for a in arrays)
        if faults:
            raise ShapeError("load_state_dict: " + "; ".join(faults))
        self.state = {i: loaded.get(i) or self._zeros(p._node) for i, p in enumerate(self.params)}
        self.steps = int(state["steps"])


class SGD(Optimizer):
    """Gradient descent, with momentum and Nesterov's variant (Sutskever et al., 2013)."""

    names: tuple[str, ...] = ("velocity",)
    checks: ClassVar[_Checks] = {**Optimizer.checks, "momentum": _not_negative}

    @_checked
    def __init__(
        self, params: Iterable[Any], learning_rate: Rate = 0.01, momentum: float = 0.0,
        nesterov: bool = False, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        _not_negative("SGD: momentum", momentum)
        if not momentum:
            self.names = ()
        super().__init__(params, learning_rate, weight_decay)
        nesterov = flag("SGD: nesterov", nesterov)
        if nesterov and not momentum:
            raise SimplegradError("SGD: nesterov=True needs momentum > 0, for example momentum=0.9")
        self.momentum, self.nesterov = momentum, nesterov

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "momentum" and value and not self.names:  # it was made without
            self.names = ("velocity",)
            self.state = {i: self._zeros(p._node) for i, p in enumerate(self.params)}

    def makes(self) -> dict[str, Callable[[], float]]:
        """Rate, decay, and momentum if there is any."""
        return super().makes() | ({"momentum": lambda: self.momentum} if self.names else {})

    def update(
        self, p: Node, g: Node, state: tuple[Node, ...], numbers: Numbers
    ) -> tuple[Node, tuple[Node, ...]]:
        """v = momentum v + g;  p -= rate (v, or g + momentum v for Nesterov)."""
        g = self._decayed(p, g, numbers)
        if state:
            momentum = numbers.of("momentum", p)
            velocity = apply(ops.ADD, apply(ops.MUL, state[0], momentum), g)
            state = (velocity,)
            ahead = apply(ops.ADD, g, apply(ops.MUL, velocity, momentum))
            g = ahead if self.nesterov else velocity
        return apply(ops.SUB, p, apply(ops.MUL, g, numbers.of("rate", p))), state


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015), epsilon outside the root; weight decay is added to g."""

    names = ("mean", "square")
    checks: ClassVar[_Checks] = {
        **Optimizer.checks, "epsilon": _not_negative, "beta1": _below_one, "beta2": _below_one,
    }  # fmt: skip

    @_checked
    def __init__(
        self, params: Iterable[Any], learning_rate: Rate = 0.01, epsilon: float = 1e-7,
        beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, learning_rate, weight_decay)
        self.epsilon, self.beta1, self.beta2 = epsilon, beta1, beta2

    def makes(self) -> dict[str, Callable[[], float]]:
        """Decay, the running means' weights, epsilon, and the rate with m's bias taken out."""
        # t = steps + 1 is read where the numbers are made: replays make them again.
        return super().makes() | {
            "rate": lambda: self.rate / (1 - self.beta1 ** (self.steps + 1)),
            "unbias": lambda: 1 / (1 - self.beta2 ** (self.steps + 1)),
            "epsilon": lambda: self.epsilon,
            **_weights("mean", lambda: self.beta1),
            **_weights("square", lambda: self.beta2),
        }

    def update(
        self, p: Node, g: Node, state: tuple[Node, ...], numbers: Numbers
    ) -> tuple[Node, tuple[Node, ...]]:
        """m, v: running means of g, g²;  p -= rate m/(1-β1ᵗ) / (√(v/(1-β2ᵗ)) + ε)."""
        return self._moved(p, self._decayed(p, g, numbers), state, numbers)

    def _moved(
        self, p: Node, g: Node, state: tuple[Node, ...], numbers: Numbers
    ) -> tuple[Node, tuple[Node, ...]]:
        mean = _running("mean", state[0], g, numbers)
        square = _running("square", state[1], apply(ops.MUL, g, g), numbers)
        root = apply(ops.SQRT, apply(ops.MUL, square, numbers.of("unbias", p)))
        below = apply(ops.ADD, root, numbers.of("epsilon", p))
        move = apply(ops.DIV, apply(ops.MUL, mean, numbers.of("rate", p)), below)
        return apply(ops.SUB, p, move), (mean, square)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    @_checked
    def __init__(
        self, params: Iterable[Any], learning_rate: Rate = 0.001, epsilon: float = 1e-8,
        beta1: float = 0.9, beta2: float = 0.999, weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__(params, learning_rate, epsilon, beta1, beta2, weight_decay)

    def makes(self) -> dict[str, Callable[[], float]]:
        """As Adam; the decay is what is left of a parameter."""
        shrink = {"decay": lambda: 1 - self.rate * self.weight_decay} if self.weight_decay else {}
        return super().makes() | shrink

    def update(
        self, p: Node, g: Node, state: tuple[Node, ...], numbers: Numbers
    ) -> tuple[Node, tuple[Node, ...]]:
        """As Adam, on a parameter that first shrinks by rate · weight_decay."""
        return self._moved(self._shrunk(p, numbers), g, state, numbers)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton, 2012): steps scaled by a running root mean square."""

    names = ("square",)
    checks: ClassVar[_Checks] = {
        **Optimizer.checks, "epsilon": _not_negative, "decay": _below_one,
    }  # fmt: skip

    @_checked
    def __init__(
        self, params: Iterable[Any], learning_rate: Rate = 0.01, decay: float = 0.99,
        epsilon: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, learning_rate, weight_decay)
        self.decay, self.epsilon = decay, epsilon

    def makes(self) -> dict[str, Callable[[], float]]:
        """Rate, decay, epsilon, and the running mean's weights."""
        own = {"epsilon": lambda: self.epsilon, **_weights("square", lambda: self.decay)}
        return super().makes() | own

    def update(
        self, p: Node, g: Node, state: tuple[Node, ...], numbers: Numbers
    ) -> tuple[Node, tuple[Node, ...]]:
        """v: running mean of g²;  p -= rate g / (√v + ε)."""
        g = self._decayed(p, g, numbers)
        square = _running("square", state[0], apply(ops.MUL, g, g), numbers)
        below = apply(ops.ADD, apply(ops.SQRT, square), numbers.of("epsilon", p))
        move = apply(ops.DIV, apply(ops.MUL, g, numbers.of("rate", p)), below)
        return apply(ops.SUB, p, move), (square,)


def _weights(name: str, decay: Callable[[], float]) -> dict[str, Callable[[], float]]:
    """Return what makes the weights of a running mean."""
    return {f"{name} kept": decay, f"{name} new": lambda: 1 - decay()}


def _running(name: str, old: Node, new: Node, numbers: Numbers) -> Node:
    """Return decay · old + (1 - decay) · new."""
    kept = apply(ops.MUL, old, numbers.of(f"{name} kept", old))
    return apply(ops.ADD, kept, apply(ops.MUL, new, numbers.of(f"{name} new", new)))


def clip_value(params: Iterable[Any], most: float) -> None:
    """Replace every gradient by itself clipped to -most … most, lazily."""
    most = real("clip_value: most", most, 0)
    for p in parameters_of("clip_value", params):
        if p.grad is not None:
            p.grad = p.grad.clip(-most, most)


def clip_norm(params: Iterable[Any], most: float) -> Any:
    """Scale all gradients so that their common Euclidean norm is at most `most`, lazily.

    Returns the norm before clipping, a zero-dimensional tensor.
    """
    most = real("clip_norm: most", most, 0)
    params = [p for p in parameters_of("clip_norm", params) if p.grad is not None]
    if not params:
        raise AutogradError("clip_norm: no parameter has a gradient; call backward() first")
    squares = [(p.grad * p.grad).sum() for p in params]
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    norm = total.sqrt()
    scale = (most / (norm + 1e-6)).minimum(1.0)
    for p in params:
        p.grad = p.grad * scale
    return norm

"""The fixed interface of a device, and what the compiler must know of one."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from simplegrad.dtypes import DType

if TYPE_CHECKING:
    from simplegrad.compiler.render.assemble import Source


@dataclass(frozen=True)
class Limits:
    """What a device can do; bytes unless said otherwise."""

    max_parameter_bytes: int
    max_work_group: int
    """Work-items per work-group."""
    local_bytes: int
    compute_units: int
    max_alloc_bytes: int
    global_bytes: int
    vector_width: int
    """float32 lanes of a register."""
    vector_bytes: int
    """The longest vector that the driver's own functions take rightly."""
    fp64: bool
    """Whether double arithmetic gives right results, found by running it; so the two below."""
    fp16: bool
    """Whether half is an arithmetic type; as a storage type it is there on every device."""
    subgroups: bool
    prefetch: bool = False
    differences: bool = True
    """Whether loops that only subtract floats give right results, found by running one."""
    host_memory: bool = False
    """Whether kernels read and write the host's memory where it stands, found by running it."""
    mma: str = ""
    """``ptx`` where NVIDIA's matrix instructions work from inline PTX; see `Target.mma`."""


class Device(ABC):
    """A device that runs kernels; `name` is its selector, `identity` part of every cache key."""

    runs_kernels: ClassVar[bool] = True
    """Others compute a graph node by node, in their method ``evaluate``."""
    name: str
    kind: str
    identity: str
    limits: Limits
    lock: threading.RLock

    @abstractmethod
    def allocate(self, nbytes: int) -> Any:
        """Return a buffer of at least `nbytes` bytes; raises `OutOfMemory`."""

    @abstractmethod
    def size_class(self, nbytes: int) -> int:
        """Return the bytes that a buffer of `nbytes` takes; raises `OutOfMemory` if too many."""

    @abstractmethod
    def allocate_all(self, sizes: Sequence[int]) -> list[Any]:
        """Return a buffer for each of some sizes that `size_class` gave; raises `OutOfMemory`."""

    @abstractmethod
    def borrow(self, sizes: Sequence[int]) -> list[Any]:
        """Return memory for a moment, until `restore`; under the lock, one loan at a time.

        Restored memory may be handed out while launches that use it wait: they come first.
        """

    @abstractmethod
    def restore(self) -> None:
        """Take back what `borrow` gave."""

    @abstractmethod
    def from_host(self, array: Any, dtype: DType) -> Any:
        """Return a buffer with a copy of a contiguous NumPy array, converted to `dtype`."""

    @abstractmethod
    def to_host(self, buffer: Any, dtype: DType, shape: tuple[int, ...]) -> Any:
        """Return a NumPy copy of a buffer (bfloat16 as float32), once all work before is done."""

    @abstractmethod
    def share(
        self, buffer: Any, dtype: DType, shape: tuple[int, ...], writable: bool = False
    ) -> Any:
        """Return a NumPy array over a buffer's own memory, once all work before is done.

        None where the host does not see that memory, or NumPy has no such dtype. What is written
        through a `writable` one reaches kernels that are enqueued when it has died.
        """

    @abstractmethod
    def adopt(self, array: Any, dtype: DType) -> Any:
        """Return a buffer over the memory of a NumPy array, which nobody may write from now on.

        None where the device does not see that memory, or would read it otherwise.
        """

    @abstractmethod
    def compile(self, text: str, options: tuple[str, ...] = ()) -> Any:
        """Return a program with a method ``kernel(name)``; raises `BuildError`."""

    @abstractmethod
    def compile_all(self, sources: Sequence[Source]) -> list[Any]:
        """Return a program for each source, as `compile` does of its text, built at once."""

    @abstractmethod
    def launch(
        self, kernel: Any, global_size: tuple[int, ...], local_size: tuple[int, ...] | None
    ) -> None:
        """Enqueue a kernel whose arguments are set."""

    @abstractmethod
    def launch_all(
        self, kernels: Sequence[Any], global_sizes: Sequence[Any], local_sizes: Sequence[Any],
        then: Iterable[Any] = (),
    ) -> None:  # fmt: skip
        """Enqueue several kernels in order, all of them or, where the driver fails, none more.

        `then` is gone through right afterwards, with nothing in between that Ctrl-C could stop.
        """

    @abstractmethod
    def launch_timed(
        self, kernel: Any, global_size: tuple[int, ...], local_size: tuple[int, ...] | None
    ) -> tuple[int, int]:
        """Run a kernel to its end; return when it began and ended, in the device's nanoseconds."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""

    @abstractmethod
    def memory_stats(self) -> dict[str, int]:
        """Return ``in_use_bytes``, ``held_bytes`` and ``peak_bytes``."""

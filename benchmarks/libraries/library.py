"""What a library brings to the table: the workloads as its users write them, and how to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from benchmarks.workload import Workload

F = TypeVar("F", bound=Callable[..., Any])


class Unsupported(Exception):
    """The library has no way to compute a workload, or not on this device; says why."""


def maker(method: F) -> F:
    """Mark a method that takes the host's arrays and returns the function to time.

    For what keeps state from run to run, as training does, or is recorded once and run often.
    """
    method.makes = True  # type: ignore[attr-defined]
    return method


class Library:
    """One method per `Workload.family`, over arrays of the library's own kind.

    A family without a method is one that the library cannot express.
    """

    def versions(self) -> dict[str, str]:
        """Return the versions of what computes, by name."""
        raise NotImplementedError

    def place(self, array: Any) -> Any:
        """Return the library's own array of a NumPy array, where it computes."""
        raise NotImplementedError

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as the library's compiler makes it; itself where there is none."""
        return function

    def wait(self, result: Any) -> None:
        """Return once a result, an array or a tuple of them, is computed."""
        raise NotImplementedError

    def to_numpy(self, array: Any) -> Any:
        """Return an array as NumPy's."""
        raise NotImplementedError

    def profile(self, run: Callable[[], Any], workload: Workload) -> dict[str, Any]:
        """Return what is known of one run beside its wall time; nothing, of most libraries."""
        return {}

    def keeps_state(self, workload: Workload) -> bool:
        """Return whether a run of the workload changes what the next one returns."""
        return getattr(getattr(self, workload.family, None), "makes", False)

    def make(self, workload: Workload, arrays: list[Any]) -> Callable[[], Any]:
        """Return a function that computes the workload once, on inputs already in place."""
        method = getattr(self, workload.family, None)
        if method is None:
            raise Unsupported("the library has no function for it")
        if self.keeps_state(workload):
            made: Callable[[], Any] = method(*arrays)
            return made
        placed = [self.place(a) for a in arrays]
        if workload.spec:
            spec = workload.spec
            function = self.compiled(lambda *operands: method(spec, *operands))
        else:
            function = self.compiled(method)
        return lambda: function(*placed)

"""The peak memory of a PyTorch step: every storage that lives, counted by its bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.libraries.torch_ import Torch
from benchmarks.workload import Workload


class Storages(TorchDispatchMode):  # type: ignore[misc]
    """Adds up the storages of all tensors that operations return, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Any, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                reference = StorageWeakRef(storage)
                self.known[reference.cdata] = (reference, storage.nbytes())
        self.known = {k: v for k, v in self.known.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self.known.values()))
        return result


def peak_bytes(workload: Workload) -> int:
    """Return the most bytes of tensors at a time in a warm step of a workload."""
    with Storages() as storages:
        step = Torch().make(workload, workload.inputs())
        for _ in range(3):
            storages.peak = 0
            result = step()
    del result
    return int(storages.peak)

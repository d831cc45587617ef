"""A device made of twelve crude operations: a user's own class, assigned to ``Tensor.device``."""

from __future__ import annotations


class CrudeDevice:
    pass

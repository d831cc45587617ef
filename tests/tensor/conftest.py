"""The tensor tests check what is recorded; values come from the NumPy device, the reference."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import simplegrad as sg


@pytest.fixture(autouse=True)
def _reference() -> Iterator[None]:
    with sg.device("numpy"):
        yield

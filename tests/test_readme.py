"""Every Python block of the README runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_README = Path(__file__).resolve().parent.parent / "README.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)


@pytest.mark.parametrize("block", _BLOCKS, ids=range(len(_BLOCKS)))
def test_block(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.replace("range(100)", "range(3)"), "README.md", "exec"), {})

"""What the README says is so: its Python blocks run, its settings and commands exist."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from simplegrad.settings import Settings

_ROOT = Path(__file__).resolve().parent.parent
_README = (_ROOT / "README.md").read_text()
_BLOCKS = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)


@pytest.mark.parametrize("block", _BLOCKS, ids=range(len(_BLOCKS)))
def test_block(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block.replace("range(100)", "range(3)"), "README.md", "exec"), {})


def test_there_are_blocks() -> None:
    assert len(_BLOCKS) >= 2
    assert "range(100)" in _BLOCKS[0]


def test_every_setting_has_its_row() -> None:
    rows = re.findall(r"^\| `SIMPLEGRAD_(\w+)` \|", _README, re.MULTILINE)
    assert sorted(rows) == sorted(f.name.upper() for f in fields(Settings))


def test_ci_runs_the_test_command_as_written() -> None:
    """The line that CI takes is the README's only one that installs and tests."""
    script = (_ROOT / ".ci" / "run").read_text()
    [pattern] = re.findall(r'grep -m 1 -- "([^"]+)" README.md', script)
    lines = [line for line in _README.splitlines() if re.match(pattern, line)]
    assert lines == ["pip install -e '.[test]' && python -m pytest"]
    syntax = subprocess.run(["bash", "-n", str(_ROOT / ".ci" / "run")], capture_output=True)
    assert syntax.returncode == 0, syntax.stderr

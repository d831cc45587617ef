"""Floors are real: imports go down, and no function hides one of our own modules."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_FILES = sorted((_ROOT / "simplegrad").rglob("*.py"))


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=folder, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip


def test_a_file_imports_only_from_floors_below() -> None:
    done = _lint(_ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("ops.py", "from simplegrad.runtime import devices\n", "BROKEN"),
        ("new_part.py", "", "new_part"),
    ],
    ids=["an import upwards", "a module of no floor"],
)
def test_the_check_sees(path: str, text: str, said: str, tmp_path: Path) -> None:
    """Plant a fault in a copy of the sources."""
    (tmp_path / "pyproject.toml").write_text((_ROOT / "pyproject.toml").read_text())
    for file in _FILES:
        copy = tmp_path / file.relative_to(_ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    with (tmp_path / "simplegrad" / path).open("a") as file:
        file.write(text)
    done = _lint(tmp_path)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def _hidden(tree: ast.AST) -> list[int]:
    """Return the lines of imports of our own modules inside functions."""
    found = []
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                    if node.level:
                        names = ["simplegrad"]
                if any(name.split(".")[0] == "simplegrad" for name in names):
                    found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", _FILES, ids=lambda p: str(p.relative_to(_ROOT)))
def test_no_function_hides_an_import(path: Path) -> None:
    assert _hidden(ast.parse(path.read_text())) == []


def test_a_hidden_import_would_be_seen() -> None:
    assert _hidden(ast.parse("def f():\n    from simplegrad import ops\n")) == [2]
    assert _hidden(ast.parse("class A:\n  def f(self):\n    from . import ops\n")) == [3]
    assert _hidden(ast.parse("import simplegrad\ndef f():\n    import pyopencl\n")) == []


@pytest.mark.parametrize("path", _FILES, ids=lambda p: str(p.relative_to(_ROOT)))
def test_rooms_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 520

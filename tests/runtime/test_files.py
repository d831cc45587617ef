"""Whole files: where one cannot be written, the error names the path that the user gave."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import nn
from simplegrad.runtime import files, tuned

WRITERS: dict[str, Callable[[Path], None]] = {
    "save": lambda path: nn.save({"x": np.ones(3)}, path),
    "export": lambda path: sg.onnx.export(sg.relu, [sg.ones(3, device="numpy")], path),
    "tune": lambda path: tuned.write(path, {}),
    "Profile.save_trace": lambda path: sg.Profile().save_trace(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_folder_is_named_and_no_temporary_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "file"
    with pytest.raises(
        sg.FileError, match=f"^{name}: cannot write {path}: there is no folder"
    ) as e:
        WRITERS[name](path)
    assert isinstance(e.value, OSError)
    assert str(e.value).endswith(f"{path.parent}; make it first")
    with pytest.raises(sg.FileError, match=f"cannot write {tmp_path}: it is a folder"):
        WRITERS[name](tmp_path)
    assert os.listdir(tmp_path) == []
    WRITERS[name](tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.replace("save", path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "a temporary name")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(sg.FileError, match=f"^save: cannot write {path}: No space left on device$"):
        files.replace("save", path, b"new")
    with pytest.raises(OSError, match="No space"):
        files.replace_cached(path, b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_what_is_cached_is_private(tmp_path: Path) -> None:
    files.replace_cached(tmp_path / "file", b"data")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600

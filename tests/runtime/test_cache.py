"""The disk cache: corrupted, truncated, unwritable, shared, warm, and switched off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simplegrad import settings
from simplegrad.runtime import program_cache

SCRIPT = """
import json, sys
import simplegrad as sg
from simplegrad.runtime.program_cache import counters
with sg.device(sys.argv[1]):
    x = sg.Tensor([[1.0, 2.0], [3.0, 4.0]])
    values = [(x * 2 + 1).softmax().numpy().tolist(), x.sum(0).tolist(), (x @ x).tolist()]
print(json.dumps([values, counters.compiles, counters.disk_hits]))
"""


def start(device: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, device], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "SIMPLEGRAD_CACHE_DIR": str(folder), **environment},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return json.loads(out)


def run(device: str, folder: Path, **environment: str) -> Any:
    return finish(start(device, folder, **environment))


@pytest.fixture
def device(cl_device: Any) -> str:
    return str(cl_device.name)


def caches(device: str) -> bool:
    return "pocl" not in device  # PoCL keeps compiled kernels itself


def programs(folder: Path) -> list[Path]:
    return sorted((folder / "programs").glob("*")) if (folder / "programs").is_dir() else []


def test_a_second_process_compiles_nothing(device: str, tmp_path: Path) -> None:
    values, compiles, hits = run(device, tmp_path)
    assert compiles > 0
    assert hits == 0
    again, compiles_again, hits_again = run(device, tmp_path)
    assert again == values
    if caches(device):
        assert compiles_again == 0
        assert hits_again == compiles == len(programs(tmp_path))


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "checked"])
def test_a_bad_entry_is_a_miss(device: str, tmp_path: Path, damage: str) -> None:
    if not caches(device):
        pytest.skip("this driver keeps its programs itself")
    values, compiles, _ = run(device, tmp_path)
    for path in programs(tmp_path):
        data = path.read_bytes()
        if damage == "flipped":
            data = data[:-9] + bytes([data[-9] ^ 255]) + data[-8:]
        elif damage == "truncated":
            data = data[: len(data) // 2]
        elif damage == "empty":
            data = b""
        else:  # a good checksum over what is no program: the driver has to refuse it
            import hashlib

            data = hashlib.sha256(b"no program").digest() + b"no program"
        path.write_bytes(data)
    again, compiles_again, hits = run(device, tmp_path)
    assert (again, compiles_again, hits) == (values, compiles, 0)
    assert run(device, tmp_path)[1:] == [0, compiles]  # and the entries were mended


def test_a_folder_that_cannot_be_made(device: str, tmp_path: Path) -> None:
    """The cache works without its folder (a file in its place stops even root)."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    values, compiles, hits = run(device, blocked)
    assert values == run(device, tmp_path / "other")[0]
    assert compiles > 0
    assert hits == 0
    assert blocked.read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder(device: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert run(device, tmp_path)[1] > 0
    tmp_path.chmod(0o700)


def test_two_processes_at_once(device: str, tmp_path: Path) -> None:
    first, second = start(device, tmp_path), start(device, tmp_path)
    assert finish(first)[0] == finish(second)[0]
    assert not [p for p in programs(tmp_path) if p.name.startswith("tmp")]
    if caches(device):
        assert run(device, tmp_path)[1] == 0


def test_switched_off_nothing_is_written(device: str, tmp_path: Path) -> None:
    assert run(device, tmp_path, SIMPLEGRAD_CACHE="0")[1] > 0
    assert [p for p in tmp_path.iterdir() if not p.name.startswith("drivers-")] == []


def test_keys_tell_parts_apart() -> None:
    assert program_cache.key_of("ab", "c") != program_cache.key_of("a", "bc")
    assert program_cache.key_of("ab") != program_cache.key_of("ab", "")


def test_entries(tmp_path: Path) -> None:
    with settings.override(cache_dir=str(tmp_path)):
        key = program_cache.key_of("x")
        assert program_cache.get("kind", key) is None
        program_cache.put("kind", key, b"payload")
        assert program_cache.get("kind", key) == b"payload"
        with settings.override(cache=False):
            assert program_cache.get("kind", key) is None
        program_cache.drop("kind", key)
        assert program_cache.get("kind", key) is None


def test_the_folder_shrinks_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_cache, "_MAX_BYTES", 1000)
    with settings.override(cache_dir=str(tmp_path)):
        for i in range(20):
            program_cache.put("kind", str(i), bytes(100))
            os.utime(tmp_path / "kind" / str(i), (i, i))
    left = {int(p.name) for p in (tmp_path / "kind").iterdir()}
    assert 19 in left
    assert 0 not in left
    assert sum(p.stat().st_size for p in (tmp_path / "kind").iterdir()) <= 1132

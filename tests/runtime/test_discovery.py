"""Drivers that nobody registered are found; the system's own stay; nothing is named twice."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from simplegrad import settings
from simplegrad.runtime import discovery, select
from simplegrad.runtime.discovery import Discovery


class Machine:
    """A machine of our own: folders for the system's entries, for libraries and for the cache."""

    def __init__(self, root: Path) -> None:
        self.vendors, self.libraries, self.cache = root / "vendors", root / "lib", root / "cache"
        self.variable = ""
        self.vendors.mkdir()
        self.libraries.mkdir()

    def library(self, name: str) -> str:
        path = self.libraries / name
        path.write_bytes(b"")
        return str(path)

    def register(self, entry: str, text: str) -> None:
        (self.vendors / entry).write_text(text + "\n")

    def find(self) -> Discovery:
        """Discover as a new process does, which has the variable as the user set it."""
        os.environ["OCL_ICD_VENDORS"] = self.variable
        found = Discovery()
        with settings.override(cache_dir=str(self.cache)):
            discovery._prepare_linux(found)
        return found

    def told(self, found: Discovery) -> dict[str, str]:
        assert found.folder is not None
        assert os.environ["OCL_ICD_VENDORS"] == str(found.folder)
        return {p.name: p.read_text().strip() for p in found.folder.glob("*.icd")}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("OCL_ICD_VENDORS", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    monkeypatch.setattr(discovery, "_SYSTEM", machine.vendors)
    monkeypatch.setattr(discovery, "_FOLDERS", (str(machine.libraries),))
    monkeypatch.setattr(discovery, "_loader_cache", lambda: b"")
    monkeypatch.setattr(discovery, "_intel", lambda: None)
    monkeypatch.setattr(discovery, "_pocl_in_wheel", lambda: True)
    return machine


def test_an_unregistered_library_is_found_beside_the_registered(machine: Machine) -> None:
    registered = machine.library("libvendor.so.1")
    machine.register("vendor.icd", registered)
    nvidia = machine.library("libnvidia-opencl.so.1")
    found = machine.find()
    told = machine.told(found)
    assert told == {"vendor.icd": registered, "simplegrad-libnvidia-opencl.icd": nvidia}
    assert told == found.entries
    assert any(nvidia in line for line in found.tried)
    assert found.folder is not None
    assert found.folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["{lib}/libnvidia-opencl.so.1", "{lib}/libnvidia-opencl.so.580.1"])
def test_a_registered_library_is_not_named_twice(machine: Machine, text: str) -> None:
    for name in ("libnvidia-opencl.so.1", "libnvidia-opencl.so.580.1"):
        machine.library(name)
    machine.register("nvidia.icd", text.format(lib=machine.libraries))
    found = machine.find()
    assert found.folder is None
    assert list(found.entries) == ["nvidia.icd"]
    assert os.environ["OCL_ICD_VENDORS"] == ""


def test_a_bare_name_that_the_loader_finds_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine.library("libnvidia-opencl.so.1")
    cache = b"glibc\0libnvidia-opencl.so.1\0" + path.encode() + b"\0/gone/libnvidia-opencl.so.1\0"
    monkeypatch.setattr(discovery, "_loader_cache", lambda: cache)
    machine.register("nvidia.icd", "libnvidia-opencl.so.1")
    assert machine.find().folder is None


def test_a_bare_name_that_the_loader_does_not_find_becomes_a_path(machine: Machine) -> None:
    path = machine.library("libnvidia-opencl.so.1")
    machine.register("nvidia.icd", "libnvidia-opencl.so.1")
    machine.register("other.icd", "libunknown.so")  # the loader may know more than we do
    assert machine.told(machine.find()) == {"nvidia.icd": path, "other.icd": "libunknown.so"}


def test_the_dynamic_loader_s_places_are_searched(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    named, cached = tmp_path / "named", tmp_path / "cached"
    for folder, name in ((named, "libamdocl64.so"), (cached, "libigdrcl.so")):
        folder.mkdir()
        (folder / name).write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/gone:{named}")
    text = f"\0libigdrcl.so\0{cached}/libigdrcl.so\0".encode()
    monkeypatch.setattr(discovery, "_loader_cache", lambda: text)
    told = set(machine.told(machine.find()).values())
    assert told == {str(named / "libamdocl64.so"), str(cached / "libigdrcl.so")}


def test_a_stale_entry_hides_nothing(machine: Machine) -> None:
    machine.register("stale.icd", "/gone/libnvidia-opencl.so.1")
    path = machine.library("libnvidia-opencl.so.1")
    found = machine.find()
    assert list(machine.told(found).values()) == [path]
    assert any("/gone/libnvidia-opencl.so.1: registered, but not there" in t for t in found.tried)


def test_the_user_s_folder_is_respected(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine.register("system.icd", machine.library("libsystem.so"))
    own = tmp_path / "own"
    own.mkdir()
    (own / "own.icd").write_text(machine.library("libown.so"))
    machine.library("libamdocl64.so")
    machine.variable = str(own)
    names = {Path(t).name for t in machine.told(machine.find()).values()}
    assert names == {"libown.so", "libamdocl64.so"}


@pytest.mark.parametrize("named", ["library", "entry"])
def test_the_user_s_one_library_is_respected(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    path = machine.library("libown.so")
    machine.register("own.icd", path)
    value = path if named == "library" else str(machine.vendors / "own.icd")
    machine.variable = value
    found = machine.find()
    assert list(found.entries.values()) == [path]
    assert os.environ["OCL_ICD_VENDORS"] == value


@pytest.mark.parametrize("value", ["/gone", "/gone/x.icd"])
def test_a_variable_that_names_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    machine.register("system.icd", machine.library("libsystem.so"))
    machine.library("libamdocl64.so")
    machine.variable = value
    found = machine.find()
    assert "system.icd" in machine.told(found)
    assert any(f"OCL_ICD_VENDORS={value}: not there" in line for line in found.tried)


def test_pocl_of_the_wheel_is_not_joined_by_another(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = machine.library("libpocl.so.2")
    assert machine.find().folder is None
    monkeypatch.setattr(discovery, "_pocl_in_wheel", lambda: False)
    assert list(machine.told(machine.find()).values()) == [path]


def test_intel_without_its_compiler_libraries_says_what_to_install(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(machine.library("libintelocl.so"))
    machine.library("libintlc.so.5")  # an empty file: the loader refuses it
    monkeypatch.setattr(discovery, "_intel", lambda: path)
    found = machine.find()
    assert found.entries == {}
    assert any("pip install intel-cmplr-lib-rt" in line for line in found.tried)


@pytest.mark.parametrize("state", ["blocked", "open to others", "cache off"])
def test_without_a_cache_folder_a_temporary_one_serves(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    path = machine.library("libamdocl64.so")
    if state == "blocked":
        machine.cache.write_text("in the way")
    elif state == "open to others":
        folder = machine.find().folder
        assert folder is not None
        folder.chmod(0o777)
    with settings.override(cache=state != "cache off"):
        found = machine.find()
        assert list(machine.told(found).values()) == [path]
        assert found.folder is not None
        assert found.folder.parent == temporary
        assert machine.find().folder == found.folder  # one for all processes
        found.folder.chmod(0o777)
        assert machine.find().folder != found.folder  # somebody else may have put a driver there
    assert state != "cache off" or not machine.cache.exists()


def test_child_processes_find_what_their_parent_found(one_cl_device: Any) -> None:
    script = "import simplegrad as sg; print([i.selector for i in sg.devices()])"
    twice = f"import subprocess, sys\n{script}\nsubprocess.run([sys.executable, '-c', {script!r}])"
    environment = {k: v for k, v in os.environ.items() if k != "OCL_ICD_VENDORS"}
    out = subprocess.run(
        [sys.executable, "-u", "-c", twice], capture_output=True, text=True, env=environment,
        timeout=120,
    )  # fmt: skip
    parent, child = out.stdout.splitlines()
    assert parent == child
    assert one_cl_device.name in parent


def test_other_systems_are_left_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_done", None)
    monkeypatch.setattr(discovery.sys, "platform", "win32")
    machine.library("libamdocl64.so")
    found = discovery.prepare()
    assert found.folder is None
    assert "win32" in found.tried[0]
    assert discovery.prepare() is found
    assert os.environ["OCL_ICD_VENDORS"] == ""


def test_threads_are_pinned_where_all_cores_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    for allowed, before, after in (({0, 1}, None, "1"), ({0, 1}, "0", "0"), ({1}, None, None)):
        monkeypatch.delenv("POCL_AFFINITY", raising=False)
        if before is not None:
            monkeypatch.setenv("POCL_AFFINITY", before)
        monkeypatch.setattr(os, "cpu_count", lambda: 2)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, a=allowed: a, raising=False)
        discovery._pin_threads(Discovery())
        assert os.environ.get("POCL_AFFINITY") == after


@pytest.mark.parametrize(("program", "library"), [(None, "there"), ("/bin/ld", "*/away")])
def test_pocl_without_a_linker_is_left_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, program: str | None, library: str
) -> None:
    """It would end the process at the first kernel."""
    there = machine.library("there")
    pattern = there if library == "there" else str(machine.libraries / library)
    monkeypatch.setattr(discovery, "_LINKED", {"libgcc": (pattern,)})
    monkeypatch.setattr(discovery.shutil, "which", lambda name: program)
    found = machine.find()
    assert not found.pocl_links
    assert any("apt-get install gcc" in line for line in found.tried)
    monkeypatch.setattr(discovery.shutil, "which", lambda name: "/bin/ld")
    monkeypatch.setattr(discovery, "_LINKED", {"libgcc": (there,)})
    assert machine.find().pocl_links


def test_devices_leave_pocl_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery.prepare(), "pocl_links", False)
    assert "pocl" not in "".join(info.selector for info in select._list())

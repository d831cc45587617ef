"""The tuner: what may win, what is kept, what a plan says, and files that make no sense."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings
from simplegrad import __main__ as cli
from simplegrad.compiler import tiles
from simplegrad.compiler.target import Winner
from simplegrad.compiler.tiles import Shape
from simplegrad.runtime import lookup, tuned, tuner

SQUARE = Shape("einsum_cpu tile", (1, 250, 250, 250), layout=(1, 2, 1))
NAME = tiles.shape_class(SQUARE)
ONES = np.ones((250, 250), np.float32)


def quiet(said: str) -> None:
    pass


@pytest.fixture
def fresh(one_cl_device: Any, tmp_path: Path) -> Iterator[Any]:
    """One device, with nothing tuned, and a cache folder of its own."""

    def forget() -> None:
        lookup.forget()  # a program for shapes seen before would be measured too
        one_cl_device.tuned = None
        one_cl_device.untunable.clear()

    forget()
    with settings.override(cache_dir=str(tmp_path / "cache"), kernels="cpu"):
        yield one_cl_device
    forget()


def product() -> Tensor:
    return Tensor(ONES, requires_grad=False) @ Tensor(ONES, requires_grad=False)


def faster(recipe_part: str) -> Any:
    """Stand-in for a plan's clock: recipes with some part take half the time."""

    def seconds(plan: Any, launches: Any) -> float:
        return 1e-3 if recipe_part in plan.program.launches[0].source.tile.recipe else 2e-3

    return seconds


def test_a_clear_winner_is_kept_and_used(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MB=132 NB=256 SPLIT=0: default for this device kind" in sg.explain(product())
    monkeypatch.setattr(tuner.Plan, "seconds", faster("KB=128"))
    with settings.override(tune=True):
        assert product().numpy()[0, 0] == 250
    text = sg.explain(product())
    assert "KB=128 MB=132 NB=256 SPLIT=0: tuned on 20" in text
    assert "2.00 times as fast as the default" in text
    assert "#define KB 128" in text
    assert product().numpy()[0, 0] == 250
    fresh.tuned = None  # another process reads the file
    assert "KB=128" in sg.explain(product())


def test_every_launch_is_measured_once(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = tuner.measure
    monkeypatch.setattr(tuner, "measure", lambda *a: calls.append(a[1]) or original(*a))
    monkeypatch.setattr(tuner.Plan, "seconds", lambda *_: 1e-3)
    with settings.override(tune=True):
        product().numpy()
        (product() * 2).numpy()
        (product() * 2).numpy()
    assert [tiles.shape_class(shape) for shape in calls] == [NAME]
    assert "no candidate was clearly faster" in sg.explain(product())
    product().numpy()
    with settings.override(tune=False):
        Tensor(np.ones((400, 300), np.float32)).matmul(Tensor(np.ones((300, 50)))).numpy()
    assert len(calls) == 1


def test_noise_does_not_win(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(tuner.Plan, "seconds", lambda *_: 1e-3 * rng.uniform(1, 1.5))
    outcome = tuner.measure(fresh, SQUARE, lookup.target_of(fresh), 60.0, quiet)
    assert outcome is not None
    assert outcome.winner.recipe == outcome.default
    assert outcome.winner.gain == 1.0
    assert outcome.measured > 4


def test_a_wrong_candidate_cannot_win(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner.Plan, "seconds", faster("KB=128"))
    original = fresh.to_host

    def broken(buffer: Any, dtype: Any, shape: Any) -> Any:
        result = original(buffer, dtype, shape)
        return result * (0.9 if "KB=128" in said[-1] else 1)

    said = [""]
    monkeypatch.setattr(fresh, "to_host", broken)
    outcome = tuner.measure(fresh, SQUARE, lookup.target_of(fresh), 60.0, said.append)
    assert outcome is not None
    assert outcome.winner.recipe == outcome.default
    assert len(outcome.wrong) == 1 and "KB=128" in outcome.wrong[0]


@pytest.mark.parametrize("layout", [(1, 2, 1), (1, 1, 1), (2, 2, 1), (0, 0, 1)])
@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_cases_meet_the_class_that_they_stand_for(
    fresh: Any, family: str, layout: tuple[int, ...]
) -> None:
    name = "einsum_gpu" if family == "gpu" else "einsum_cpu tile"
    with settings.override(kernels=family):
        target = lookup.target_of(fresh)
        for extents in ((1, 40, 130, 90), (3, 70, 50, 20)):
            shape = Shape(name, extents, layout=layout)
            case = tuner.case_of(shape, fresh)
            assert case is not None
            order = tuner.topological(case.roots)
            met = tuner._met(order, case.roots, target, tiles.shape_class(shape))
            assert met is not None and met[0].shape == shape
            assert tuner._checked(fresh, case, order, target) is not None


def test_usual_shapes_can_be_measured(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "limits", replace(fresh.limits, mma="emulated"))
    for family in ("cpu", "gpu"):
        with settings.override(kernels=family):
            target = lookup.target_of(fresh)
            shapes = tuner.usual_shapes(target)
            names = {tiles.shape_class(s): s for s in shapes}
            assert len(names) == len(shapes)
            assert {s.template for s in shapes} >= {
                t for t in tiles._TEMPLATES if family in t or ("mma" in t and family == "gpu")
            } - {"einsum_cpu_skinny outer"}  # bound by memory, not by its tile
            for name, shape in names.items():
                if max(shape.extents) <= 1024:
                    case = tuner.case_of(shape, fresh)
                    assert case is not None
                    met = tuner._met(tuner.topological(case.roots), case.roots, target, name)
                    assert met is not None, name


BAD = {
    "no json": "{",
    "another file": '{"a": 1}',
    "a later format": '{"format": 2, "devices": {}}',
    "no devices": '{"format": 1, "devices": []}',
    "a list": "[1, 2]",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_left_out_with_a_warning(fresh: Any, name: str) -> None:
    tuned.path().parent.mkdir(mode=0o700)
    tuned.path().write_text(BAD[name])
    with pytest.warns(RuntimeWarning, match=r"tuned tiles in .* are ignored"):
        assert product().numpy()[0, 0] == 250
    assert product().numpy()[0, 0] == 250


def test_bad_entries_are_left_out_and_good_ones_count(fresh: Any) -> None:
    good = {"tile": "MR=4 NV=2 KB=256 MB=48 NB=128 SPLIT=0", "gain": 1.2, "date": "2026-11-24"}
    entries = {
        "good": good, "no tile": {**good, "tile": 7}, "code": {**good, "tile": "MR=f()"},
        "nan": {**good, "gain": float("nan")}, "no date": {**good, "date": "today"}, "text": "x",
    }  # fmt: skip
    tuned.path().parent.mkdir(mode=0o700)
    tuned.path().write_text(json.dumps({"format": 1, "devices": {fresh.identity: entries, "x": 3}}))
    with pytest.warns(RuntimeWarning, match="6 of its entries make no sense"):
        found = tuned.load(fresh.identity)
    assert {w.shape_class for w in found} == {"good"}


@pytest.mark.parametrize("recipe", ["MR=999 NV=2 KB=256 MB=132 NB=256 SPLIT=0", "TI=1", "MR=6"])
def test_a_foreign_recipe_is_not_used(fresh: Any, recipe: str) -> None:
    fresh.tuned = frozenset([Winner(NAME, recipe, 9.0, "2026-11-24")])
    text = sg.explain(product())
    assert f"default; the tuned {recipe} is not offered here" in text
    assert product().numpy()[0, 0] == 250


def test_another_driver_has_its_own_winners(fresh: Any) -> None:
    winner = Winner(NAME, "MR=6 NV=2 KB=256 MB=48 NB=128 SPLIT=0", 1.5, "2026-11-24")
    tuned.save("another driver", [winner])
    assert tuned.load(fresh.identity) == frozenset()
    tuned.save(fresh.identity, [replace(winner, gain=1.1)])
    assert tuned.load("another driver") == {winner}
    with settings.override(cache=False):
        assert tuned.load("another driver") == frozenset()


def test_the_command(fresh: Any, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-W", "error", "-m", "simplegrad", "tune", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=env)
        assert done.returncode == 0, done.stderr
        bars.append(done.stderr)
        return done.stdout

    bars: list[str] = []
    env = {**tuner_environment(), "SIMPLEGRAD_CACHE_DIR": str(tmp_path / "one")}
    said = run("--budget", "1.5", "--device", fresh.name)
    assert "classes measured" in said and "class" in bars[0]
    shared = tmp_path / "tuned.json"
    assert f"written to {shared}" in run("--export", str(shared))
    assert json.loads(shared.read_text())["devices"][fresh.identity]
    env["SIMPLEGRAD_CACHE_DIR"] = str(tmp_path / "two")
    assert "of 1 devices read from" in run("--import", str(shared))
    with settings.override(cache_dir=str(tmp_path / "two")):
        assert tuned.load(fresh.identity) == frozenset(tuned.read(shared)[fresh.identity].values())


@pytest.mark.parametrize(
    ("text", "said"), [(None, "there is no file"), ('{"a": 1}', "holds nothing that tune --export")]
)
def test_a_file_that_cannot_be_imported_is_an_error(
    fresh: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    source = tmp_path / "shared.json"
    if text is not None:
        source.write_text(text)
    monkeypatch.setattr(sys, "argv", ["simplegrad", "tune", "--import", str(source)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(SystemExit) as error:
            cli.main()
    assert said in str(error.value)


def tuner_environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith("SIMPLEGRAD_")}

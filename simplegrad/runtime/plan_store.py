"""Plans on disk: what a second process needs of a structure's program, to neither schedule nor
compile.

An entry is the program's launches as compressed JSON, without the kernel IR behind them. Its key
names everything that decides them: operations, arguments, shapes and dtypes in words that are the
same in every process, sharing, what is kept, the device, the settings and this package's source.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from simplegrad import settings
from simplegrad.compiler.program import Launch, Program, Slot
from simplegrad.compiler.render.assemble import Source
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates.sources import source_files
from simplegrad.graph.node import Node
from simplegrad.runtime import program_cache

_KIND = "plans"


def key_of(
    order: Sequence[Node], key: tuple[Any, ...], target: Target, identity: str, fusion: bool
) -> str:
    """Return the name of an entry; `key` is the structural key of `order`."""
    if not settings.current().cache:
        return ""
    _, edges, kept, wanted = key
    kinds = [
        n.kind.describe() if n.buffer is None else (n.shape, n.dtype.name) for n in order
    ]  # fmt: skip
    # What a stored program uses has passed its self-test: verdicts are no part of the question.
    target = replace(target, distrusted=frozenset())
    fast_math = settings.current().fast_math
    return program_cache.key_of(
        _digest(), identity, repr(target), repr((fusion, fast_math)), repr(kinds),
        repr((edges, kept, wanted)),
    )  # fmt: skip


@functools.cache
def _digest() -> str:
    """Return a digest of this package's source: another compiler makes other programs."""
    folder = Path(__file__).resolve().parents[1]
    paths = sorted([*folder.rglob("*.py"), *source_files()])
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return program_cache.key_of(*[p.name for p in paths], *texts)


def load(key: str) -> tuple[Program, frozenset[str]] | None:
    """Return a stored program and the templates it trusts, or None; a bad entry is a miss."""
    data = program_cache.get(_KIND, key)
    if data is None:
        return None
    try:
        return _decode(json.loads(zlib.decompress(data)))
    except (ValueError, TypeError, KeyError, zlib.error):
        program_cache.drop(_KIND, key)
        return None


def save(key: str, program: Program) -> None:
    """Store a program whose templates have passed their self-tests."""
    if settings.current().cache:
        text = json.dumps(_encode(program), separators=(",", ":"))
        program_cache.put(_KIND, key, zlib.compress(text.encode(), 1))


def _encode(program: Program) -> dict[str, Any]:
    launches = [
        [
            _fields(replace(x.source, tile=None)),
            x.slots,
            x.bytes_read,
            x.bytes_written,
            x.release,
            x.in_place,
        ]
        for x in program.launches
    ]
    return {
        "slots": [_fields(slot) for slot in program.slots],
        "launches": launches,
        "results": program.results,
    }


def _fields(record: Any) -> list[Any]:
    """Return the fields of a dataclass as they are; `dataclasses.astuple` copies all of them."""
    return [getattr(record, f.name) for f in fields(record)]


def _decode(data: dict[str, Any]) -> tuple[Program, frozenset[str]]:
    slots = [Slot(*row) for row in data["slots"]]
    launches = []
    for source, places, read, written, release, in_place in data["launches"]:
        launches.append(
            Launch(
                Source(*[_tuples(part) for part in source]), tuple(places), read, written,
                (), (), tuple(release), _tuples(in_place),
            )
        )  # fmt: skip
    program = Program(slots, launches, list(data["results"]))
    return program, frozenset(x.source.origin for x in launches) - {""}


def _tuples(value: Any) -> Any:
    """Return what JSON made lists of as the tuples that they were."""
    return tuple([_tuples(v) for v in value]) if isinstance(value, list) else value

"""The programs of one device: from memory, from disk, or from the driver, several kernels at once.

What a driver takes for a program, whatever it holds, is most of what a small kernel costs: Intel's
runtime 45 of 55 ms, PoCL 25 of 65. So on CPUs the generated kernels of a plan are built a few
programs at a time.
"""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from typing import Any

from simplegrad import settings
from simplegrad.compiler.render.assemble import Source, joined, joined_name
from simplegrad.errors import BuildError
from simplegrad.runtime import builtins, probe, program_cache, progress

MAX_PROGRAMS = 1024
"""Some 4 MB each with Intel's runtime, 1 MB with PoCL."""
_MAX_BUILDERS = 4
"""Threads that build; CPU drivers build one program at a time, more or less."""
_MAX_JOINED, _MAX_JOINED_CHARACTERS = 16, 1 << 16
"""Kernels of one program, and the length of its text."""


class Program:
    """A built program; every call of `kernel` gives a new kernel object, with its own arguments."""

    def __init__(self, cl: Any, raw: Any, number: int | None = None) -> None:
        self._cl, self._raw, self._number = cl, raw, number

    def kernel(self, name: str) -> Any:
        """Return a new kernel object; ``set_arg(i, buffer.raw or NumPy scalar)`` binds it."""
        inside = name if self._number is None else joined_name(name, self._number)
        return self._cl.Kernel(self._raw, inside)


class Programs:
    """Builds and keeps the programs of a device."""

    def __init__(self, cl: Any, context: Any, name: str, identity: str) -> None:
        self._cl, self._context, self._raw = cl, context, context.devices[0]
        self._name, self.identity = name, identity
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, tuple[str, ...]], Program] = OrderedDict()
        platform = self._raw.platform.name
        self.own_cache = platform == builtins.POCL
        """Whether the driver keeps programs on disk itself; PoCL compiles twice for a binary."""
        self._one_by_one = "oclgrind" in platform.lower()  # its compiler is not thread-safe
        # Drivers of GPUs build side by side.
        joins = self._raw.type & cl.device_type.CPU and not self._one_by_one
        self._most_joined = _MAX_JOINED if joins else 1

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Let go of all programs; those of plans that somebody holds stay with them."""
        with self._lock:
            self._known.clear()

    def after_fork(self) -> None:
        """Let go of a lock that a thread of the parent may hold."""
        self._lock = threading.Lock()

    def compile(self, text: str, options: tuple[str, ...] = ()) -> Program:
        """Return the program of a text; raises `BuildError`."""
        options = _with_settings(options)
        found = self._find(text, options, {})
        return found or self._keep(text, options, Program(self._cl, self._built(text, options)))

    def compile_all(self, sources: Sequence[Source]) -> list[Program]:
        """Return a program for each source; raises `BuildError`."""
        options = _with_settings(())
        wholes: dict[str, Any] = {}
        missing: dict[str, Source] = {}
        programs: dict[str, Program] = {}
        for source in sources:
            text = source.text
            if text in programs or text in missing:
                continue
            found = self._find(text, options, wholes)
            if found:
                programs[text] = found
            else:
                missing[text] = source
        built = self._all_built(self._batches(list(missing.values())), options)
        for text, program in progress.shown(built, len(missing), "compiling kernels"):
            programs[text] = program
        return [programs[source.text] for source in sources]

    def _batches(self, sources: Sequence[Source]) -> list[list[Source]]:
        """Return sources by the program that they go to: templates to one each."""
        batches: list[list[Source]] = []
        room, characters = 0, 0
        for source in sources:
            length = len(source.text)
            alone = source.helpers is None
            if alone or not room or characters + length > _MAX_JOINED_CHARACTERS:
                batches.append([])
                room, characters = 1 if alone else self._most_joined, 0
            batches[-1].append(source)
            room, characters = room - 1, characters + length
        return batches

    def _all_built(
        self, batches: Sequence[list[Source]], options: tuple[str, ...]
    ) -> Iterator[tuple[str, Program]]:
        """Yield text and program of each source; the batches are built side by side."""
        if len(batches) < 2 or self._one_by_one:
            for batch in batches:
                yield from self._built_together(batch, options)
            return
        from concurrent.futures import ThreadPoolExecutor  # 8 ms, with logging

        builders = ThreadPoolExecutor(_MAX_BUILDERS, "simplegrad-build")
        try:
            # The settings in force here are in force there.
            tasks = [(copy_context(), batch) for batch in batches]
            for built in builders.map(
                lambda task: task[0].run(self._built_together, task[1], options), tasks
            ):
                yield from built
        finally:
            builders.shutdown(cancel_futures=True)

    def _built_together(
        self, batch: Sequence[Source], options: tuple[str, ...]
    ) -> list[tuple[str, Program]]:
        if len(batch) > 1:
            text = joined(batch)
            try:
                raw = self._built(text, options, count=len(batch))
            except BuildError:  # each by itself, to name the one that was refused
                return [pair for one in batch for pair in self._built_together([one], options)]
            whole = self._key(text, options)
            for i, source in enumerate(batch):
                part = f"{i} {whole}".encode()
                program_cache.put("parts", self._key(source.text, options), part)
            numbers: Sequence[int | None] = range(len(batch))
        else:
            raw, numbers = self._built(batch[0].text, options), [None]
        return [
            (s.text, self._keep(s.text, options, Program(self._cl, raw, i)))
            for s, i in zip(batch, numbers, strict=True)
        ]

    # Memory and disk ----------------------------------------------------------------------------

    def _key(self, text: str, options: tuple[str, ...]) -> str:
        return program_cache.key_of(text, *options, self.identity)

    def _keep(self, text: str, options: tuple[str, ...], program: Program) -> Program:
        """Return the program to use for a text: another thread's, if that came first."""
        with self._lock:
            program = self._known.setdefault((text, options), program)
            if len(self._known) > MAX_PROGRAMS:
                self._known.popitem(last=False)
        return program

    def _find(self, text: str, options: tuple[str, ...], wholes: dict[str, Any]) -> Program | None:
        """Return a program from memory or disk; `wholes` are joined ones that were just read."""
        with self._lock:
            program = self._known.get((text, options))
            if program is not None:
                self._known.move_to_end((text, options))
                program_cache.counters.memory_hits += 1
                return program
        key, number = self._key(text, options), None
        part = program_cache.get("parts", key)
        if part is not None:
            digits, _, key = part.decode().partition(" ")
            number = int(digits)
        if key not in wholes:
            wholes[key] = self._read(key, options)
        raw = wholes[key]
        if raw is None:
            return None
        return self._keep(text, options, Program(self._cl, raw, number))

    def _read(self, key: str, options: tuple[str, ...]) -> Any:
        """Return what an entry holds, built; None if there is no good one."""
        entry = program_cache.get("programs", key)
        if entry is None:
            return None
        try:
            if self.own_cache:
                return self._built(zlib.decompress(entry).decode(), options)
            raw = self._cl.Program(self._context, [self._raw], [entry])
            with probe.quiet(self._cl):
                raw.build(options=list(options))
        except (self._cl.Error, BuildError, zlib.error):
            program_cache.drop("programs", key)
            return None
        with self._lock:
            program_cache.counters.disk_hits += 1
        return raw

    def _built(self, text: str, options: tuple[str, ...], count: int = 1) -> Any:
        """Return what the driver makes of a text with `count` kernels; raises `BuildError`."""
        with self._lock:
            program_cache.counters.compiles += count
        try:
            with probe.quiet(self._cl):
                raw = builtins.build(self._cl, self._context, text, options)
        except self._cl.Error as error:
            raise BuildError(_message(self._name, text, str(error))) from error
        # PoCL finds a whole by its text, and a single kernel's is at hand.
        if not self.own_cache:
            entry = raw.get_info(self._cl.program_info.BINARIES)[0]
            program_cache.put("programs", self._key(text, options), entry)
        elif count > 1:
            entry = zlib.compress(text.encode(), 1)
            program_cache.put("programs", self._key(text, options), entry)
        return raw


def _with_settings(options: tuple[str, ...]) -> tuple[str, ...]:
    return (*options, "-cl-fast-relaxed-math") if settings.current().fast_math else options


def _message(name: str, text: str, log: str) -> str:
    numbered = "\n".join(f"{i:4} {line}" for i, line in enumerate(text.splitlines(), 1))
    return f"compile: {name} refused a kernel; please report it\n{numbered}\n{log}"

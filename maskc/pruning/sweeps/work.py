"""Compilation of the candidates of a sweep, in local processes or on a Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskc.compilation.compile import compile_file
from maskc.compilation.compile_report import CompileReport
from maskc.compilation.options import CompileOptions
from maskc.compilation.workers import attempt
from maskc.errors import InputError, MaskcError, UnavailableError
from maskc.frontend import write_model_files
from maskc.frontend.custom_rules import load
from maskc.results.environment import __version__
from maskc.runtime.detect_cpu import table_name
from passes.errors import in_brief

Files = dict[str, bytes]

# How long an address has to answer.
_SECONDS = 10.0


@dataclass(frozen=True)
class Task:
    """A model to compile, with the files that it is stored in."""

    model: Path
    files: tuple[Path, ...]
    output: Path
    options: CompileOptions


def run(task: Task) -> CompileReport:
    """Compile and write. Raises as `compile_file` does."""
    return compile_file(task.model, task.output, task.options)


def check_ray(address: str) -> None:
    """Raise `UnavailableError` if Ray is not installed or nobody listens there, for which Ray waits minutes."""
    if importlib.util.find_spec("ray") is None:
        raise UnavailableError("Ray is not installed. Type `pip install 'maskc[ray]'`.")
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or in_brief(error)
            raise UnavailableError(
                f"No Ray cluster answers at {address}: {reason}. Give the address of its head, or start one with "
                "`ray start --head`."
            ) from error


def on_ray(
    tasks: Sequence[Task], address: str, jobs: int | None = None, rules: Sequence[Path] = ()
) -> Iterator[tuple[int, CompileReport | MaskcError]]:
    """As `workers.each`, on the Ray cluster at `address` (`auto`: the one around here), `jobs` at a time.

    Models, masks and rules travel with the tasks and what they become comes back, so nodes need no common file system,
    but the same maskc. Where the program is connected to a cluster already, that is used. Raises `UnavailableError` if
    no cluster answers.
    """
    import ray

    connected = ray.is_initialized()
    if not connected:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise UnavailableError(
                f"No Ray cluster can be used at '{address}': {in_brief(error)}. Give `auto`, or the address "
                "of its head, `host:port`."
            ) from error
    try:
        yield from _scattered(ray, tasks, jobs or len(tasks), [rule.read_bytes() for rule in rules])
    finally:
        if not connected:
            ray.shutdown()


def _scattered(ray: Any, tasks: Sequence[Task], most: int, rules: list[bytes]) -> Iterator[tuple[int, Any]]:
    remote = ray.remote(num_cpus=1, max_retries=1)(_far)
    stored: dict[tuple[Path, ...], Any] = {}  # each model travels once
    waiting = list(enumerate(tasks))
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                index, task = waiting.pop(0)
                if task.files not in stored:
                    stored[task.files] = ray.put(_content(task.files, task.model.parent))
                masks = None if task.options.mask_file is None else task.options.mask_file.read_bytes()
                running[remote.remote(__version__, _for_here(task), stored[task.files], masks, rules)] = index
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(ready)
            yield index, attempt(_brought, (ray, ready, tasks[index]))
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _for_here(task: Task) -> Task:
    """The task with widths for the processor of this machine, where latency is measured, and not for that of a node."""
    if task.options.align != "auto" or task.options.align_for or not table_name():
        return task
    return replace(task, options=replace(task.options, align_for=table_name()))


def _far(version: str, task: Task, files: Files, masks: bytes | None, rules: list[bytes]) -> tuple[Any, Files]:
    """Compile on a node of the cluster; returns what `attempt` does, and the files that were written."""
    if version != __version__:
        return UnavailableError(f"A node of the cluster has maskc {__version__}, and here it is {version}."), {}
    with tempfile.TemporaryDirectory() as directory:
        inside, out = Path(directory, "in"), Path(directory, "out")
        inside.mkdir()
        out.mkdir()
        for name, data in files.items():
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            (inside / name).write_bytes(data)
        here = replace(task, model=inside / task.model.name, output=out / task.output.name)
        if masks is not None and task.options.mask_file is not None:
            file = inside / f"masks{task.options.mask_file.suffix}"
            file.write_bytes(masks)
            here = replace(here, options=replace(task.options, masks=file))
        sources = [inside / f"rules_{number}.py" for number in range(len(rules))]
        for path, data in zip(sources, rules, strict=True):
            path.write_bytes(data)

        def compiled(task: Task) -> CompileReport:
            load(sources)
            return run(task)

        done = attempt(compiled, here)
        if isinstance(done, MaskcError):  # its paths mean nothing here
            return type(done)(str(done).replace(str(here.model), str(task.model))), {}
        return done, _content(tuple(out.iterdir()), out)


def _brought(arguments: tuple[Any, Any, Task]) -> CompileReport:
    """The result of a task on the cluster, with its files written where they belong."""
    ray, reference, task = arguments
    try:
        done, files = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise InputError(f"The compilation on the cluster failed: {in_brief(error)}.") from error
    if isinstance(done, MaskcError):
        raise done
    with write_model_files.written(task.output):
        for name, data in sorted(files.items(), key=lambda item: item[0] == task.output.name):  # weights first
            write_model_files.write_bytes(task.output.with_name(name), data)
    assert isinstance(done, CompileReport)
    return done


def _content(files: Sequence[Path], directory: Path) -> Files:
    return {Path(os.path.relpath(file, directory)).as_posix(): file.read_bytes() for file in files}

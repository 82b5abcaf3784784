"""Who notices a mutant: a folder with the changed package, judged in a process of its own, forked with all loaded."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

from tests.mutation.operators import Mutant
from tests.mutation.together import REPOSITORY, Together


def changed_package(mutant: Mutant | Together, folder: Path, name: str | None = None) -> Path:
    """A copy of the mutant's package in the folder, under another name if one is given."""
    package = Path(mutant.file).parts[0]
    target = folder / (name or package)
    shutil.copytree(REPOSITORY / package, target, ignore=shutil.ignore_patterns("__pycache__"))
    for file, source in mutant.sources.items():
        (target / Path(file).relative_to(package)).write_text(source)
    if name is not None:
        for file in target.rglob("*.py"):
            file.write_text(file.read_text().replace(f"from {package}", f"from {name}"))
    return target


@lru_cache
def forks() -> Executor:
    """What calls functions in a process that is this one as it was at the first call of this.

    A process that has judged by the gate is none to fork: there Hypothesis refuses to be pytest's plugin.
    """
    executor = ProcessPoolExecutor(1, get_context("fork"))
    executor.submit(int).result()  # it is forked here
    return executor


def survives_tests(mutant: Mutant | Together, tests: Sequence[str], seconds: float) -> bool:
    """Whether all those tests pass with the mutant in place of its package; hanging counts as noticed."""
    return bool(forks().submit(_survives_tests, mutant, tests, seconds).result())


def _survives_tests(mutant: Mutant | Together, tests: Sequence[str], seconds: float) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        changed_package(mutant, Path(folder))
        status = _forked(lambda: _pytest(mutant, folder, tests), seconds)
    if status > 2:  # neither that tests passed, nor that some failed or could not be collected
        raise RuntimeError(f"pytest did not come to its tests: exit status {status}")
    return status == 0


def noticed_by_tests_of_ranks(mutant: Mutant | Together, tests: Sequence[str], seconds: float) -> str:
    """The first of those tests that fails, "" if none does: tests that start processes of their own.

    These must find the mutant too, so that everything is copied. Hanging counts as noticed.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in ("attention_gate", "reference", "impls", "verify", "tests"):
            shutil.copytree(REPOSITORY / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(REPOSITORY / "pyproject.toml", folder)
        for file, source in mutant.sources.items():
            (Path(folder) / file).write_text(source)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]
        with subprocess.Popen(
            command, cwd=folder, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                printed, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return "no end of the tests"
            if process.returncode == 0:
                return ""
            failed = [line.split(" - ")[0] for line in printed.splitlines() if line.startswith(("FAILED ", "ERROR "))]
            return failed[0] if failed else f"exit status {process.returncode}"


def _pytest(mutant: Mutant | Together, folder: str, tests: Sequence[str]) -> int:
    import pytest

    package = Path(mutant.file).parts[0]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    importlib.import_module(package)  # before pytest puts the repository's own folder first
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", *tests]))


def _forked(function: Callable[[], int], seconds: float) -> int:
    """What the function returned in a fork of this process; -1 if it raised or took too long."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.setsid()
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            status = function()
        os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1

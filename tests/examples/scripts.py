"""Running the examples that are scripts, where the libraries that they show are installed."""

import importlib.util
import subprocess
import sys
from pathlib import Path


def is_installed(name: str) -> bool:
    """Whether a module of that name can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def assert_prints(path: Path, lines: list[str], status: int) -> None:
    """Run a script; it must end with that status and print all of the lines."""
    ran = subprocess.run([sys.executable, "-W", "ignore", path], capture_output=True, text=True, timeout=120)
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert [line for line in lines if line not in ran.stdout] == [], ran.stdout

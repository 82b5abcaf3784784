"""The end of the command is not broken off, however often it is interrupted."""

import subprocess
import sys

import pytest

_TWICE = """
import os, signal, time
from attention_gate.verify.commands import command_line as cli

def main():
    os.kill(os.getpid(), signal.{name})  # while the first interruption is being reported
    time.sleep(5)

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have taken away
signal.signal(signal.SIGTERM, cli._terminate)
cli.main = main
cli.entry()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_while_another_is_reported_ends_quietly(name: str) -> None:
    ran = subprocess.run([sys.executable, "-c", _TWICE.format(name=name)], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (3, "")

"""How this program was called, so that a line that calls it again can be copied as it stands."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from attention_gate.verify.target.source import near

#: What always works where the gate can be imported.
ANYWHERE = "python -m attention_gate"


def program() -> str:
    """The words that started this program: "attention-gate", ".venv/bin/python -m attention_gate", ….

    Where it was not the gate's command line, as in a test of a user's, ``python -m attention_gate``.
    """
    called = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path()
    if called.name == "attention-gate":
        found = shutil.which("attention-gate")
        if found is not None and Path(found).resolve() == called.resolve():
            return "attention-gate"
        return near(os.path.abspath(called))
    if called.name == "__main__.py" and called.parent.name == "attention_gate" and sys.orig_argv:
        python = sys.orig_argv[0]  # as it was typed: a name alone was found on PATH, and is no file of this folder
        name = os.path.basename(python)
        on_path = shutil.which(name)
        # By their paths: the pythons of two environments may be links to one file.
        short = python == name or (on_path is not None and os.path.abspath(on_path) == os.path.abspath(python))
        return f"{name if short else python} -m attention_gate"
    return ANYWHERE

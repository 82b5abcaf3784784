"""Write the test, the tox environment and the GitHub Actions workflow that judge an implementation; they are yours."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from verify.cli import CONFORMS
from verify.replay import write_whole
from verify.target import parse_source

_TEST = '''"""The attention of this project against the float64 oracle, gradients included, on 1 to 4 ranks."""

import verify


def test_attention_conforms():
    report = verify.check({target!r}, profile="quick")
    assert report.verdict == "pass", verify.text(report)
'''

_TOX = """[testenv:attention]
deps = attention-gate
# More threads than cores make the ranks several times slower.
set_env = OMP_NUM_THREADS = 1
commands = attention-gate gate {target} --junit {{env_tmp_dir}}/attention.xml
"""

_WORKFLOW = """name: attention
on: [push, pull_request]

jobs:
  gate:
    runs-on: ubuntu-latest
    timeout-minutes: 20
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.11"
      - run: pip install torch --index-url https://download.pytorch.org/whl/cpu
      - run: pip install attention-gate .
      - run: attention-gate gate {target} --junit attention.xml --save failures
        env:
          OMP_NUM_THREADS: "1"
      - uses: actions/upload-artifact@v4
        if: failure()
        with:
          name: attention-failures
          path: |
            attention.xml
            failures
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``init``."""
    parser.add_argument("target", metavar="TARGET", help="module:name or path/to/file.py:name")
    parser.add_argument("--folder", metavar="DIR", default=".", help="the project's folder (default: this one)")
    parser.epilog = "A file that is there already is left alone, and what belongs into it is printed."


def run(options: argparse.Namespace) -> int:
    """Write what is not there yet, say what was done."""
    parse_source(options.target)
    if not re.fullmatch(r"[\w./:-]+", options.target):
        raise ValueError(f"target {options.target!r} has signs that would need quoting in tox.ini and in a workflow")
    folder = Path(options.folder)
    if not folder.is_dir():
        raise ValueError(f"the folder {options.folder} is not there")
    for name, template in (
        ("tests/test_attention.py", _TEST),
        ("tox.ini", _TOX),
        (".github/workflows/attention.yml", _WORKFLOW),
    ):
        _write(folder / name, template.format(target=options.target))
    print(f"now: python -m pytest {folder / 'tests/test_attention.py'}, or one test for each check:")
    print(f"     pytest --pyargs verify --attention-target {options.target}")
    return CONFORMS


def _write(path: Path, text: str) -> None:
    if path.is_file() and path.read_text(errors="replace") == text:
        print(f"{path} is there already")
        return
    if path.exists():
        print(f"{path} is there and left alone; what belongs into it:\n\n{text}")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(path), text)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    print(f"wrote {path}")

"""The scripts in examples/claims, which settle by running what is said of libraries; docs/findings.md says the same."""

from pathlib import Path

import pytest

from tests.examples.scripts import assert_prints, is_installed

_SCRIPTS = Path(__file__).parents[2] / "examples" / "claims"

#: Script, the library that it asks, and what it prints.
_SETTLED = [
    (
        "deepspeed_point_to_point",
        "deepspeed",
        [
            "deepspeed.comm.isend returned at once",
            "deepspeed.comm.send returned after the receiver came",
            "deepspeed.runtime.pipe.p2p.send returned after the receiver came",
            "deepspeed.runtime.pipe.p2p.send(…, async_op=True) raised AssertionError: Doesn't support async_op true",
        ],
    ),
    (
        "fairscale_sequence_parallelism",
        "fairscale",
        [
            "fairscale 0.4.13: 100 modules imported",
            "ring, Ulysses, attention: fairscale.experimental.nn.data_parallel.gossip.graph_manager.RingGraph\n",
        ],
    ),
]


@pytest.mark.parametrize(("script", "needs", "lines"), _SETTLED, ids=[settled[0] for settled in _SETTLED])
def test_the_library_does_what_is_said_of_it(script: str, needs: str, lines: list[str]) -> None:
    if not is_installed(needs):
        pytest.skip(f"{needs} is not installed")
    assert_prints(_SCRIPTS / f"{script}.py", lines, 0)


def test_each_script_is_run_here() -> None:
    assert {path.stem for path in _SCRIPTS.glob("*.py")} == {settled[0] for settled in _SETTLED}

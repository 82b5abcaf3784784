"""The doctor: what it says of versions, worlds and the whole, and what to do."""

import json

import pytest

from attention_gate.verify.commands import command_line as cli
from attention_gate.verify.commands import machine as doctor
from attention_gate.verify.commands.doctor import line
from attention_gate.verify.commands.machine import Fact, can_run, version_fact, world_fact


@pytest.mark.parametrize(
    ("name", "version", "good"),
    [
        ("python", "3.10.14", False),
        ("python", "3.11.0", True),
        ("python", "3.13.7", True),
        ("python", "3.14.0", False),
        ("torch", "2.10.1+cpu", False),
        ("torch", "2.11.0", True),
        ("torch", "2.13.0+cpu", True),
        ("torch", "2.14.0a0+git123", False),
        ("numpy", "1.25.2", False),
        ("numpy", "2.4.6", True),
    ],
)
def test_versions_are_held_against_the_supported_range(name, version, good):
    fact = version_fact(name, version)
    assert (fact.good, bool(fact.advice)) == (good, not good)
    assert can_run([fact]) == good


def test_what_to_do_is_said():
    assert version_fact("torch", "2.10.0").advice == 'supported is >=2.11,<2.14: pip install "torch>=2.11,<2.14"'
    assert line(Fact("gloo", "missing", False, "install it")) == f" MISSING  {'gloo':<14} missing\n{'':>10}install it"


def test_a_world_that_cannot_be_started_is_a_fact_and_no_exception():
    fact = world_fact(1, backend="no-such-backend")
    assert not fact.good
    assert fact.needed
    assert "no-such-backend" in fact.advice


def test_a_transport_that_delivers_something_else_is_noticed(monkeypatch):
    monkeypatch.setattr(doctor, "rows", lambda case, name, positions: 0 * positions)
    assert world_fact(1).found == "rank 0 did not receive the rows that its neighbour sent"


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The whole of it, with one world instead of three."""
    path = tmp_path_factory.mktemp("doctor") / "facts.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor.facts, "__defaults__", ((2,),))
        status = cli.main(["doctor", "--json", str(path)])
    return status, json.loads(path.read_text())


def test_this_machine_can_run_the_gate(reported):
    status, data = reported
    assert (status, data["can_run"], data["schema"]) == (0, True, 1)
    found = {fact["name"]: fact for fact in data["facts"]}
    assert {"python", "torch", "numpy", "cores", "gloo", "nccl", "world of 2", "world on cuda"} <= set(found)
    assert found["world of 2"]["found"].startswith("started in ")


def test_what_only_a_gpu_needs_does_not_matter_on_the_cpu():
    cpu, gpu = Fact("gloo", "there"), Fact("nccl", "missing", False, "install it", needed=False)
    assert can_run([cpu, gpu])
    assert not can_run([cpu, Fact("world of 2", "could not be started", False)])


def test_a_machine_that_cannot_run_it_gets_status_2(monkeypatch, capsys):
    monkeypatch.setattr("attention_gate.verify.commands.doctor.facts", lambda: iter([version_fact("torch", "2.3.0")]))
    assert cli.main(["doctor"]) == 2
    assert "the gate cannot run on the CPU of this machine" in capsys.readouterr().out

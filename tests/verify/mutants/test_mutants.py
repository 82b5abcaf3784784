"""The mutants themselves: all are there, each changes its base in one way, and the bases are right."""

import argparse

import pytest

import attention_gate
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.commands import mutants as command
from attention_gate.verify.mutants import KNOWN, MUTANTS, OTHERS, SAME, STREAM_MISTAKES
from attention_gate.verify.mutants.build import base_text, text_of, write
from attention_gate.verify.mutants.known_lengths import DECODING, LENGTHS
from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.stream_mistakes import CAPABILITIES
from attention_gate.verify.mutants.term_changes import ALL_TERMS
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.source import parse_source


def test_the_known_mistakes_are_there_in_the_order_of_their_numbers_and_many_relatives():
    for letter, least in (("M", 53), ("T", 53)):
        names = [mutant.name for mutant in KNOWN if mutant.name.startswith(letter)]
        assert names == sorted(set(names))
        assert len(names) >= least
    assert {mutant.name[0] for mutant in KNOWN} == {"M", "T"}
    assert len(OTHERS) >= 25
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.keeps == (mutant in SAME) for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", [*MUTANTS, *STREAM_MISTAKES], ids=lambda mutant: mutant.name)
def test_each_mutant_is_a_module_that_differs_from_its_base(mutant):
    text = text_of(mutant)
    compile(text, mutant.name, "exec")
    assert not text.startswith(base_text(mutant.base))
    assert mutant.keeps or mutant.caught_by
    assert all(name in BY_NAME for name in mutant.caught_by)


def test_a_change_that_fits_nowhere_or_twice_is_refused():
    for old in ("no such text", "rows"):
        with pytest.raises(ValueError, match="not once"):
            text_of(Mutant(name="X99", mistake="", base="ring", changes=((old, ""),)))


def test_a_mutant_is_loaded_with_its_capabilities(tmp_path):
    (grouped,) = (mutant for mutant in KNOWN if mutant.name == "M14")
    target = load(parse_source(write(grouped, tmp_path)))
    assert target.dialect == "grouped-mean"
    assert target.returns_lse


@pytest.mark.parametrize("base", ["ring", "gather"])
def test_the_bases_are_right(base):
    checks = ["forward", "lse", "gradients", "sub-groups", "state", "refusals"]
    report = attention_gate.check(f"attention_gate.verify.mutants.bases.{base}:attend", profile="quick", checks=checks)
    assert report.verdict == "pass", attention_gate.text(report)


@pytest.mark.parametrize("base", ["term_ring", "term_heads"])
def test_the_bases_with_optional_terms_are_right(bench, base):
    right = Mutant(name="E99", mistake="none", base=base, changes=(), capabilities=ALL_TERMS, keeps=True)
    trial = bench.trial(right, shrink=False)
    assert trial.as_expected, trial.first


def test_the_grouped_base_is_right(bench):
    right = Mutant(
        name="E99", mistake="none", base="grouped", changes=(), capabilities={"dialect": "grouped-mean"}, keeps=True
    )
    trial = bench.trial(right, shrink=False)
    assert trial.as_expected, trial.first


@pytest.mark.parametrize(("base", "capabilities"), [("decoding", DECODING), ("bottom_right", LENGTHS)])
def test_the_bases_of_other_lengths_are_right(bench, base, capabilities):
    right = Mutant(name="E97", mistake="none", base=base, changes=(), capabilities=capabilities, keeps=True)
    trial = bench.trial(right, shrink=False)
    assert trial.as_expected, trial.first


def test_the_streamed_base_is_right(bench):
    right = Mutant(name="E98", mistake="none", base="streamed", changes=(), capabilities=CAPABILITIES, keeps=True)
    trial = bench.trial(right, shrink=False)
    assert trial.as_expected, trial.first
    assert "streams" not in trial.cells, "it is not tried on a CPU"


def test_the_command_says_that_mistakes_in_the_order_of_streams_were_not_tried(capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(["--only", "M12", "--brief", "--seeds", "1"])) == 0
    assert "8 mistakes in the order of streams show on a GPU alone: --device cuda tries them" in capsys.readouterr().out


def test_the_command_refuses_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(command, "gpus", lambda: 0)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(ValueError, match="--device is cuda, but this machine has no CUDA device"):
        command.run(parser.parse_args(["--device", "cuda"]))

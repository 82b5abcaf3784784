"""The recorded matrix: it is of these mutants and these checks, and says how strong each profile is."""

import argparse
import json
import tempfile
from pathlib import Path

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.profiles import PROFILES
from attention_gate.verify.checks.strength import recorded, strength
from attention_gate.verify.commands import mutants as command
from attention_gate.verify.mutants import KNOWN, OTHERS, kill_matrix
from attention_gate.verify.mutants.term_changes import ALL_TERMS
from attention_gate.verify.target.target import Target


def test_the_record_is_of_the_mutants_and_checks_that_there_are():
    data = recorded()
    assert list(data["mutants"]) == [mutant.name for mutant in (*KNOWN, *OTHERS)], "run `mutants --record` again"
    assert data["checks"] == list(BY_NAME), "run `mutants --record` again"
    assert all(check in BY_NAME for row in data["mutants"].values() for check in row["caught_at"])


def test_the_standard_profile_catches_all_known_mistakes():
    assert strength("standard").survivors == ()
    assert str(strength("standard")).startswith(f"such a run finds all {len(KNOWN)} known mistakes and all ")


def test_mistakes_with_optional_terms_count_where_the_target_takes_them():
    bare, taking = (Target(attend=print, lse=True, terms=terms) for terms in ((), ALL_TERMS["terms"]))
    with_terms = [mutant for mutant in (*KNOWN, *OTHERS) if mutant.capabilities.get("terms") == ALL_TERMS["terms"]]
    assert len(with_terms) > 60
    more = strength("standard", target=bare).beyond - strength("standard", target=taking).beyond
    assert more >= 0.9 * len(with_terms)  # the others show without terms, too


def test_a_larger_profile_catches_no_less():
    order = sorted(PROFILES, key=PROFILES.get)
    caught = [strength(profile).caught + strength(profile).others_caught for profile in order]
    assert caught == sorted(caught)


def tried(capsys, *words):
    """The exit status of the command, its data, and what it printed."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        status = command.run(parser.parse_args([*words, "--brief", "--json", file.name]))
        return status, json.loads(Path(file.name).read_text())["mutants"], capsys.readouterr().out


def test_known_mistakes_are_tried_with_ten_seeds_and_their_relatives_with_one(capsys):
    status, found, printed = tried(capsys, "--only", "M12,X07")
    assert status == 0
    assert found["M12"]["caught_at"]["forward"] >= 1
    assert [seed["seed"] for seed in found["M12"]["seeds"]] == list(range(10))
    assert [seed["seed"] for seed in found["X07"]["seeds"]] == [0]
    assert "1 of 1 known mistakes caught at each of 10 seeds" in printed
    assert "1 of 1 variants of them caught at each of 1 seed\n" in printed


def test_all_are_tried_with_as_many_seeds_as_are_asked_for(capsys):
    status, found, _ = tried(capsys, "--only", "M12,X07,E01", "--seeds", "2", "--seed", "5")
    assert status == 0
    assert [seed["seed"] for seed in found["M12"]["seeds"]] == [5, 6]
    assert [seed["seed"] for seed in found["X07"]["seeds"]] == [5, 6]
    assert [seed["seed"] for seed in found["E01"]["seeds"]] == [5]


def test_rows_that_were_not_tried_again_are_kept(tmp_path, monkeypatch):
    before = recorded()
    row = {"mistake": "another", "caught_at": {"forward": 3}, "minimal": None, "keeps": False}
    monkeypatch.setattr(kill_matrix, "RECORD", tmp_path / "kill_matrix.json")
    kill_matrix.record({"checks": before["checks"], "mutants": {"M12": row, "E01": row | {"keeps": True}}})
    after = json.loads(kill_matrix.RECORD.read_text())
    assert after["mutants"].pop("M12") == {name: row[name] for name in ("mistake", "caught_at", "minimal")}
    assert after["mutants"] == {name: other for name, other in before["mutants"].items() if name != "M12"}
    assert list(json.loads(kill_matrix.RECORD.read_text())["mutants"]) == [mutant.name for mutant in (*KNOWN, *OTHERS)]

"""The recorded matrix: it is of these mutants and these checks, and says how strong each profile is."""

import json

from verify.checks import BY_NAME
from verify.commands import mutants as command
from verify.mutants import KNOWN, OTHERS
from verify.profiles import PROFILES
from verify.strength import recorded, strength


def test_the_record_is_of_the_mutants_and_checks_that_there_are():
    data = recorded()
    assert list(data["mutants"]) == [mutant.name for mutant in (*KNOWN, *OTHERS)], "run `mutants --record` again"
    assert data["checks"] == list(BY_NAME), "run `mutants --record` again"
    assert all(check in BY_NAME for row in data["mutants"].values() for check in row["caught_at"])


def test_the_standard_profile_catches_all_known_mistakes():
    assert strength("standard").survivors == ()
    assert str(strength("standard")).startswith("these checks catch 40 of 40 known mistakes and ")


def test_a_larger_profile_catches_no_less():
    order = sorted(PROFILES, key=PROFILES.get)
    caught = [strength(profile).caught + strength(profile).others_caught for profile in order]
    assert caught == sorted(caught)


def test_the_command_writes_its_figures(tmp_path, capsys):
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = parser.parse_args(["--only", "M12", "--brief", "--json", str(tmp_path / "m.json")])
    assert command.run(options) == 0
    data = json.loads((tmp_path / "m.json").read_text())
    assert data["mutants"]["M12"]["caught_at"]["forward"] >= 1
    assert "1 of 1 known mistakes caught at each of 1 seed" in capsys.readouterr().out

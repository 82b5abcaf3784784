"""The long profile: what is expected is said first, an interrupted run goes on, and the report is complete."""

import json
import os

import numpy as np

from attention_gate.verify.case.seen_rows import sees_itself
from attention_gate.verify.commands import command_line
from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.chosen_rows import choose
from attention_gate.verify.long.long_cases import cases_of, schedule
from attention_gate.verify.long.long_run import run_lengths
from attention_gate.verify.report.text_of_lengths import text_of_lengths
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds

WRONG = "tests/verify/long/wrong_at_length.py"


def test_schedule():
    assert schedule(1 << 20) == ((256, 4096, 65536, 1 << 20), (1, 16, 256, 4096))
    assert schedule(100) == ((100,), (1,))
    assert schedule(300) == ((256, 300), (1, 16))


def test_chosen_rows_are_at_borders_and_past_32_bits():
    case = cases_of(as_target("impls.robust:attend")[0], 2)["logic"](70_000)
    shards = [range(35_000), range(35_000, 70_000)]
    wide = case.replace(heads=1024, kv_heads=1024, head_dim=128, value_dim=128)  # 2^17 elements a row
    chosen = choose(wide, shards)
    wanted = {0, 69_999, 34_999, 35_000, 255, 256, 4095, 4096, 65_535, 65_536, 16_383, 16_384, 35_000 + 16_384, 32_768}
    assert wanted <= set(chosen.queries.tolist())
    assert chosen.escapes(0.001) < 0.002


def test_covered_rows():
    case = cases_of(as_target("impls.robust:attend")[0], 2)["logic"](8).replace(
        segment_lengths=(4,), dilation_rates=(3,), document_lengths=(6,)
    )
    seen = sees_itself(case, "longnet", np.arange(8))
    assert seen[:, 0].tolist() == [True, False, False, True, True, False, False, False]
    assert seen[:, 1].tolist() == [False, True, False, False, False, True, False, False]


def test_an_interrupted_run_goes_on_where_it_was():
    target, source = as_target("impls.robust:attend")
    kept, said = [], []
    with Worlds() as worlds:
        session = Session(target, source, worlds, (2,))
        given = {"world_size": 2, "say": said.append, "keep": lambda finished: kept.append(list(finished))}
        first = run_lengths(session, [40], **given)
        assert not first.failed
        assert "length 40: about" in said[0]
        assert "on each rank" in said[0]
        again = run_lengths(session, [40], **given | {"kept": kept[3]})
    assert f"4 of {len(first.finished)} parts were finished by an earlier run" in said
    assert again.finished[:4] == first.finished[:4]
    assert [str(part) for part in again.finished] == [str(part) for part in first.finished]
    assert "CONFORMS at lengths 40: 0 of 10 parts failed" in text_of_lengths(again)


def test_the_command(tmp_path, capsys):
    report = tmp_path / "report.json"
    save = ["--save", str(tmp_path / "failures")]
    arguments = ["gate", f"{WRONG}:last_segment", "--lengths", "40", "--json", str(report), *save]
    assert command_line.main(arguments) == 1
    text = capsys.readouterr().out
    assert "FAIL  40 logic, samples: the output is wrong in" in text
    assert "it fails at length 4 already" in text
    assert json.loads(report.read_text())["finished"][0]["outcome"]["verdict"] == "fail"
    assert not os.path.exists(tmp_path / "failures")
    assert command_line.main([*arguments, "--junit", str(tmp_path / "j.xml")]) == 2
    assert "--junit is for a report of checks" in capsys.readouterr().err

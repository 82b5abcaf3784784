"""Worlds that are launched: those that were asked for, and for claims simulated ones that the report names."""

import attention_gate


def test_a_right_implementation_keeps_its_claims_however_few_ranks_are_asked_for():
    options = {"profile": "quick", "world_sizes": [2], "checks": ["memory", "overlap"]}
    report = attention_gate.check("impls.robust:attend", **options, claims=["memory", "overlap"])
    assert report.verdict == "pass", attention_gate.text(report)
    assert [note for note in report.notes if "simulated worlds of 3, 4, 8 ranks" in note]


def test_without_claims_no_larger_world_is_needed():
    options = {"profile": "quick", "world_sizes": [2], "checks": ["forward", "sub-groups", "schedules"]}
    assert attention_gate.check("impls.collective:attend", **options).notes == ()

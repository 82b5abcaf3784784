"""Signatures: looked at before anything runs, and adapted by a file that fits."""

import sys

import pytest

import attention_gate
from attention_gate.verify.target.call_signature import SignatureError, check_signature, misfit
from attention_gate.verify.target.loading import as_target, resolve
from attention_gate.verify.target.source import Source, parse_source
from attention_gate.verify.target.target import Target
from attention_gate.verify.target.written_adapter import adapter


def causal_by_another_name(q, k, v, causal=False):
    """The likeliest first try."""


def with_ranks(q, k, v, process_group, world_size, dropout):
    """What is had from the group, and what nothing is known of."""


def by_keyword(*, q, k, v, softmax_scale=None):
    """The tensors by keyword alone."""


def packed(qkv, *, group=None):
    """One tensor instead of three."""


def fits(query, key, value, *, is_causal, group, **_):
    """As the contract has it."""


SOURCE = Source(None, "/x/mine.py", "attend")


def text_of(attend):
    with pytest.raises(SignatureError) as refused:
        check_signature(Target(attend=attend), SOURCE)
    return str(refused.value)


def test_it_says_which_parameters_do_not_fit_and_shows_an_adapter_for_this_very_function():
    text = text_of(causal_by_another_name)
    assert "/x/mine.py:attend does not take the arguments that the gate passes" in text
    assert "its signature is (q, k, v, causal=False)" in text
    assert "not taken: segment_lengths, dilation_rates, is_causal (yours: causal), scale" in text
    assert "To write it to mine_target.py, and judge that:\n\n    attention-gate init /x/mine.py:attend\n" in text
    assert max(len(line) for line in text.splitlines() if line.startswith("    ")) <= 80
    assert "    from mine import attend as attention\n" in text
    assert "    def attend(query, key, value, *, is_causal, **_):\n" in text
    assert "        return attention(query, key, value, causal=is_causal)\n" in text
    declared = " ".join(text.split())
    assert 'branches="dense", uneven=False, subgroups=False, scales=False, refusals=False )' in declared


def test_the_call_that_is_shown_has_the_arguments_of_the_declared_terms():
    target = Target(attend=causal_by_another_name, terms=("documents", "queries", "joint"), lse=True)
    with pytest.raises(SignatureError) as refused:
        check_signature(target, SOURCE)
    call = " ".join(str(refused.value).partition("The gate calls ")[2].partition(").")[0].split())
    assert call.startswith("attend(query, key, value, segment_lengths=…, dilation_rates=…, is_causal=…, scale=…,")
    assert call.endswith("query_length=…, joint_key=…, joint_value=…, joint=…, query_lengths=…, return_lse=…")


def test_ranks_come_from_the_group_and_what_is_not_known_is_left_to_the_user():
    text = text_of(with_ranks)
    assert "not given: process_group, world_size, dropout" in text
    call = "attention(query, key, value, process_group=group, world_size=dist.get_world_size(group), dropout=...)"
    assert f"        return {call}\n" in text
    assert "    import torch.distributed as dist\n" in text


def test_tensors_may_be_keywords():
    assert "attention(q=query, k=key, v=value, softmax_scale=scale)" in text_of(by_keyword)


def test_no_adapter_is_made_up_for_one_packed_tensor():
    text = text_of(packed)
    assert "it does not take three tensors (query, key, value) by position" in text
    assert "def attend" not in text


def test_a_target_that_declares_limits_is_not_given_another():
    with pytest.raises(SignatureError, match=r"Let attend take \*\*_") as refused:
        check_signature(Target(attend=causal_by_another_name, branches="dense"), SOURCE)
    assert "def attend" not in str(refused.value)


@pytest.mark.parametrize("attend", [fits, attention_gate.impls.robust.attend, max])
def test_what_takes_the_arguments_is_let_through(attend):
    assert misfit(Target(attend=attend)) is None


def test_terms_are_passed_by_their_own_names():
    def attend(
        query,
        key,
        value,
        *,
        document_lengths=None,
        segment_lengths,
        dilation_rates,
        is_causal,
        scale,
        sequence_length,
        group,
    ): ...

    assert misfit(Target(attend=attend, terms=("documents",))) is None
    found = misfit(Target(attend=attend, terms=("documents", "window")))
    assert found is not None
    assert found.not_taken == ("window",)


@pytest.mark.parametrize("attend", [causal_by_another_name, by_keyword, with_ranks])
def test_the_adapter_fits(tmp_path, monkeypatch, attend):
    monkeypatch.syspath_prepend(tmp_path)
    name = attend.__name__
    source = Source(__name__, None, name)
    (tmp_path / f"{name}_adapted.py").write_text(adapter(attend, source))
    found, where = as_target(f"{tmp_path}/{name}_adapted.py")
    assert where.name == "target"
    assert found.branches == "dense"
    sys.modules.pop(f"{name}_adapted")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("def attend(*_, **options): ...\ndef other(): ...", "attend"),
        ("def target(*_, **options): ...\ndef attend(): ...", "target"),
        ("mine = attention_gate.Target(attend=print)\ndef attend(): ...", "mine"),
        ("mine = again = attention_gate.Target(attend=print)", "mine"),
        ("target = attention_gate.Target(attend=print)\nother = attention_gate.Target(attend=max)", "target"),
    ],
)
def test_a_file_alone_means_its_only_target_or_target_or_attend(tmp_path, monkeypatch, content, name):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "unnamed_target.py").write_text(f"import attention_gate\n{content}\n")
    try:
        assert resolve(parse_source(f"{tmp_path}/unnamed_target.py"))[1].name == name
    finally:
        sys.modules.pop("unnamed_target", None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a = attention_gate.Target(attend=print)\nb = attention_gate.Target(attend=max)", "{file}:a, {file}:b"),
        ("def ring(): ...\ndef zigzag(): ...", "say which of these is meant: {file}:ring, {file}:zigzag"),
        ("from attention_gate import Case as _c\ndel attention_gate", "it has nothing to judge"),
    ],
)
def test_several_are_listed(tmp_path, monkeypatch, content, words):
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "several_targets.py"
    file.write_text(f"import attention_gate\n{content}\n")
    with pytest.raises(attention_gate.TargetError) as refused:
        resolve(parse_source(str(file)))
    assert words.format(file=file) in str(refused.value)
    sys.modules.pop("several_targets", None)

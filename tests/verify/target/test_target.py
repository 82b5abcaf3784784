"""Target and Source: what is declared is checked, and what does not load is reported in one line."""

import sys

import numpy as np
import pytest

import attention_gate
import impls.collective
from attention_gate.verify.target.loading import as_target, load
from attention_gate.verify.target.source import Source, parse_source, source_of
from tests.verify import targets

MIXED = "query and key in float32 beside a bfloat16 value under autocast (optional)"
TERMS = (
    "a sliding window (window), packed documents (document_lengths), any mask (mask), a soft cap of the scores "
    "(softcap), ALiBi slopes (slopes), a sink for each head (sink), queries fewer or more than keys (query_length, "
    "query_lengths), rows of keys that every rank has (joint_key, joint_value, joint) (optional)"
)


def attend(query, key, value, **options):
    """Only declared, never called."""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attend": 3}, "Target.attend is 3; it must be callable"),
        ({"queries": "split"}, "Target.queries is 'split'; it must be one of sharded, replicated"),
        (
            {"queries": "replicated"},
            "Target.gradients is True beside queries='replicated': of "
            "queries that every rank has, only the output and the lse are judged; declare gradients=False",
        ),
        (
            {"queries": "replicated", "gradients": False, "claims": ("traffic",)},
            "Target.claims is ('traffic',); claims of traffic and overlap count rows of keys that travel, and beside "
            "queries='replicated' none does",
        ),
        ({"lse_sink": "without"}, "Target.lse_sink is 'without'; it must be one of included, left-out"),
        (
            {"layout": "random"},
            "layout is 'random'; it must be one of contiguous, zigzag, striped, interleaved, document-zigzag",
        ),
        ({"branches": "one"}, "Target.branches is 'one'; it must be one of any, dense"),
        (
            {"dialect": "paper"},
            "Target.dialect is 'paper'; it must be one of longnet, torchscale, grouped-mean",
        ),
        ({"masks": ()}, "Target.masks is (); it must be a non-empty tuple without repetition"),
        ({"masks": (True, True)}, "Target.masks is (True, True); it must be a non-empty tuple without repetition"),
        ({"dtypes": ["float32"]}, "Target.dtypes is ['float32']; it must be a non-empty tuple without repetition"),
        (
            {"dtypes": ("float",)},
            "an entry of Target.dtypes is 'float'; it must be one of float64, float32, bfloat16, float16; "
            "did you mean 'float64' or 'float32'?",
        ),
    ],
)
def test_what_cannot_be_declared_is_refused_in_words(changes, words):
    with pytest.raises((ValueError, TypeError)) as refused:
        attention_gate.Target(**({"attend": attend} | changes))
    assert str(refused.value) == words


def test_a_bare_callable_supports_everything_but_what_its_signature_lacks():
    assert attention_gate.Target(attend=attend).unsupported() == (MIXED, "return_lse (optional)", TERMS)
    assert attention_gate.Target(attend=impls.collective.attend).unsupported() == (MIXED, TERMS)


def test_every_capability_that_is_missing_is_listed():
    words = targets.few.unsupported()
    assert "branches other than the dense one (length, 1)" in words
    assert "dtype float64, bfloat16, float16" in words
    for part in ("grouped-query", "uneven", "sub-groups", "gradients", "refusing", "return_lse"):
        assert [line for line in words if part in line], part


@pytest.mark.parametrize("text", ["no file", "", ":attend", "impls.robust:", "a b:attend", "impls.robust:1"])
def test_a_target_that_is_no_place_is_refused(text):
    with pytest.raises(attention_gate.TargetError, match="neither"):
        parse_source(text)


def test_a_place_is_a_module_or_a_file():
    assert parse_source("a.b:c.d") == Source("a.b", None, "c.d")
    assert parse_source("/x/y.py:z") == Source(None, "/x/y.py", "z")
    assert str(parse_source("/x/y.py:z")) == "/x/y.py:z"


def test_a_file_is_shown_as_it_is_typed_in_the_current_folder_and_stored_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    source = parse_source("inner/y.py:z")
    assert (str(source), source.address) == ("inner/y.py:z", f"{tmp_path}/inner/y.py:z")
    assert str(parse_source("inner/y.py")) == "inner/y.py"
    assert str(parse_source("inner.y:z")) == "inner.y:z"
    monkeypatch.chdir(tmp_path / "inner")
    assert parse_source("y.py:z") == parse_source(source.address) == source
    assert (str(source), source.address) == ("y.py:z", f"{tmp_path}/inner/y.py:z")
    assert str(parse_source("../y.py:z")) == f"{tmp_path}/y.py:z"
    (tmp_path / "inner").rmdir()
    assert str(source) == source.address


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "attend", "it has no 'attend'; it has nothing to call"),
        ("def atend(): ...", "attend", "it has no 'attend'; did you mean 'atend'?"),
        ("attend = 3", "attend", "is int, neither callable nor an attention_gate.Target"),
        ("import nowhere.at_all", "attend", "importing it failed, since it needs 'nowhere'"),
        ("1 / 0", "attend", "importing it failed: ZeroDivisionError: division by zero"),
        ("def attend(:", "attend", "importing it failed: SyntaxError"),
        ("raise SystemExit(0)", "attend", "importing it failed: SystemExit"),
    ],
)
def test_what_does_not_load_is_reported_in_one_line(tmp_path, monkeypatch, content, name, words):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "broken_target.py").write_text(content)
    with pytest.raises(attention_gate.TargetError) as refused:
        load(parse_source(f"{tmp_path}/broken_target.py:{name}"))
    assert words in str(refused.value)
    assert "broken_target" not in sys.modules or content in ("", "def atend(): ...", "attend = 3")
    sys.modules.pop("broken_target", None)


@pytest.mark.parametrize(("name", "words"), [("targets", "did you mean 'target'?"), ("attend", "it has target")])
def test_of_what_is_there_targets_are_named_too(tmp_path, monkeypatch, name, words):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "misspelt_target.py").write_text(
        "import attention_gate\nprint = print\ntarget = attention_gate.Target(attend=print)\n"
    )
    with pytest.raises(attention_gate.TargetError, match=words):
        load(parse_source(f"{tmp_path}/misspelt_target.py:{name}"))
    sys.modules.pop("misspelt_target", None)


def test_a_file_that_is_not_there_and_a_module_that_is_not_there():
    with pytest.raises(attention_gate.TargetError, match=r"target file /nowhere/x\.py does not exist"):
        load(parse_source("/nowhere/x.py:attend"))
    with pytest.raises(
        attention_gate.TargetError, match="no module named 'nowhere_at_all'; is it installed, or on PYTHONPATH"
    ):
        load(parse_source("nowhere_at_all.deep:attend"))


def test_a_file_named_as_a_module_that_is_there_hides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "numpy.py").write_text("def attend(): ...")
    load(parse_source(f"{tmp_path}/numpy.py:attend"))
    assert sys.modules["numpy"] is np


def test_a_callable_is_found_by_the_name_that_other_processes_use():
    assert source_of(impls.collective.attend) == Source("impls.collective", None, "attend")
    with pytest.raises(attention_gate.TargetError, match="cannot be imported by name in another process"):
        source_of(lambda query, key, value: None)


def test_a_target_that_has_a_name_is_found_by_it_with_all_that_it_declares():
    found, source = as_target(targets.zigzag_target)
    assert source == Source("tests.verify.targets", None, "zigzag_target")
    assert load(source) is found
    assert as_target(attention_gate.Target(attend=targets.right))[1].name == "right"

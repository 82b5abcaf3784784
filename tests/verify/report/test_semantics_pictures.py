"""The pictures in the pages are what the code draws, and say what the reference says."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from attention_gate.verify.report.semantics_pictures import PICTURES, write_pictures

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", PICTURES)
def test_the_published_picture_is_what_the_code_draws(name: str, tmp_path: Path) -> None:
    write_pictures(tmp_path)
    assert (ROOT / "docs/pictures" / name).read_text() == (tmp_path / name).read_text()


def seen(name: str) -> set[tuple[int, int]]:
    """The pairs of query and key that a picture shows."""
    titles = [element.text or "" for element in ElementTree.fromstring(PICTURES[name]()).iter()]
    words = [text.split() for text in titles if text.startswith("query ") and " sees key " in text]
    return {(int(word[1]), int(word[word.index("key") + 1])) for word in words}


def test_they_show_who_sees_whom() -> None:
    n = range(16)
    causal = {(i, j) for i in n for j in n if j <= i}
    assert seen("dense.svg") == seen("zigzag.svg") == causal
    assert seen("window.svg") == {(i, j) for i, j in causal if i - j <= 3}
    documents = [0] * 3 + [1] * 7 + [2] * 6
    assert seen("documents.svg") == {(i, j) for i, j in causal if documents[i] == documents[j]}
    near, far = ({(i, j) for i, j in causal if i // 4 == j // 4}, {(i, j) for i, j in causal if i % 2 == j % 2 == 0})
    assert seen("branches.svg") == near | far


@pytest.mark.parametrize("name", PICTURES)
def test_each_is_in_a_page(name: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert [page.name for page in pages if f"pictures/{name}" in page.read_text()]

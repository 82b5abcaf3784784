"""Several mutants in one program: each of them is in one, whole, and beside what no other changed."""

import ast
from collections import Counter

import pytest

from tests.mutation.operators import mutants
from tests.mutation.together import REPOSITORY, together


@pytest.mark.parametrize("file", ["reference/_branches.py", "impls/fused/two_streams.py"])
def test_each_mutant_is_in_one_program(file: str) -> None:
    source = (REPOSITORY / file).read_text()
    unchanged = ast.unparse(ast.parse(source)).splitlines()
    made = list(mutants(file, source))
    programs = together(made)
    assert sorted(one.key for program in programs for one in program.mutants) == sorted(one.key for one in made)
    assert len(programs[0].mutants) > 1
    for program in programs:
        lines = program.sources[file].splitlines()
        ast.parse(program.sources[file])
        for mutant in program.mutants:
            its_own = [line for line in mutant.source.splitlines() if line not in unchanged]
            assert its_own or len(lines) < len(unchanged)
            assert all(line in lines for line in its_own), mutant.key
        changed = [line for line in lines if line not in unchanged]
        assert len(changed) <= sum(
            len([line for line in mutant.source.splitlines() if line not in unchanged]) for mutant in program.mutants
        )


def test_mutants_of_one_line_are_apart() -> None:
    file = "impls/fused/two_streams.py"
    made = list(mutants(file, (REPOSITORY / file).read_text()))
    (line, count), *_ = Counter(one.line for one in made).most_common()
    programs = together(one for one in made if one.line == line)
    assert [len(program.mutants) for program in programs] == [1] * count

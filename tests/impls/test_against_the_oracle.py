"""Forward, lse and all gradients against the oracle, on worlds of one to four ranks."""

import pytest

from tests.impls.cases import IMPLEMENTATIONS, assert_close, random_case, run_case
from tests.impls.worlds import results


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_random_cases(implementation: str, size: int) -> None:
    for seed in range(40):
        case = random_case(1000 * size + seed)
        assert_close(results(size, run_case, implementation, case), case)

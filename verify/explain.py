"""Which known mistake fits: wrong formulas are tried on the failing case, and those that give the target's output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from verify.findings import Finding
from verify.report import Example

if TYPE_CHECKING:
    from verify.session import Session


def explain(session: Session, example: Example, finding: Finding) -> tuple[str, ...]:
    """Sentences on the known mistakes whose formula gives what the target returned; none if none fits."""
    return ()

"""How much is tried: examples per unit of a check's weight."""

from __future__ import annotations

PROFILES: dict[str, float] = {"quick": 10.0, "standard": 80.0, "thorough": 800.0}


def examples(profile: str, weight: float) -> int:
    """Examples that a check of that weight gets in that profile."""
    return max(4, round(PROFILES[profile] * weight))

"""NOT_YET and KnownFailure: what a target declares beyond True and False."""

from __future__ import annotations

import datetime
from dataclasses import dataclass


class NotYet:
    """Not supported today but planned: like False, but the report says "not yet"."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "NOT_YET"


NOT_YET = NotYet()

#: The values of a capability.
Capability = bool | NotYet


@dataclass(frozen=True, kw_only=True)
class KnownFailure:
    """A check that the target is known to fail: why, where that is discussed, and until when it is accepted.

    >>> KnownFailure(
    ...     check="precision",
    ...     reason="the gradient of query is rounded to bfloat16",
    ...     link="https://example.org/issues/1",
    ...     until="2030-01-31",
    ... )

    While it is accepted, a failure of that check does not count against the target. It is a failure if the check
    passes, if it cannot be tried, and once the day is over. Raises ValueError for an entry that lacks any of this.
    """

    check: str
    reason: str
    link: str
    until: str

    def __post_init__(self) -> None:
        for name in ("check", "reason", "link", "until"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"KnownFailure.{name} is {value!r}; it must be a non-empty string")
        if not self.link.startswith(("https://", "http://")):
            raise ValueError(
                f"KnownFailure.link is {self.link!r}; it must be a URL (http:// or https://) about the failure"
            )
        try:
            datetime.date.fromisoformat(self.until)
        except ValueError:
            raise ValueError(f"KnownFailure.until is {self.until!r}; it must be a day such as 2030-01-31") from None

    def expired(self, today: datetime.date | None = None) -> bool:
        """Whether the last day on which it is accepted is over."""
        return (today or datetime.date.today()) > datetime.date.fromisoformat(self.until)

    @property
    def words(self) -> str:
        """The entry in one line."""
        return f"{self.reason} ({self.link}, accepted until {self.until})"

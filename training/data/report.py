"""What was read and what was skipped, and when a run must stop because too much was skipped."""

from __future__ import annotations

from dataclasses import dataclass, field

from .records import DataError


@dataclass(frozen=True)
class Broken:
    """A record or image that cannot be used, and why."""

    where: str
    reason: str


@dataclass
class Report:
    """Counts the good, names the broken, and raises DataError when the broken pass a share.

    `limit` is the largest share of broken entries that is still accepted, 0 to 1. The share is
    judged from `least` entries on, and once more by `check()` when the source has ended, so that
    one broken entry at the start of a large source does not stop a run.
    """

    limit: float = 0.05
    least: int = 100
    good: int = 0
    broken: list[Broken] = field(default_factory=list)

    @property
    def seen(self) -> int:
        return self.good + len(self.broken)

    def skip(self, broken: Broken) -> None:
        """Record one broken entry. Raises DataError when the share is above the limit."""
        self.broken.append(broken)
        if self.seen >= self.least:
            self.check()

    def check(self) -> None:
        """Raise DataError when the share of broken entries is above the limit."""
        if len(self.broken) > self.limit * self.seen:
            first = self.broken[0]
            raise DataError(
                f"{len(self.broken)} of {self.seen} entries are broken, more than the accepted "
                f"{self.limit:.0%}; the first is {first.where}: {first.reason}"
            )

    def summary(self, lines: int = 10) -> str:
        """Return the counts and the first `lines` broken entries as text."""
        head = f"{self.good} good, {len(self.broken)} skipped"
        named = [f"  {broken.where}: {broken.reason}" for broken in self.broken[:lines]]
        more = len(self.broken) - len(named)
        return "\n".join([head, *named, *([f"  and {more} more"] if more > 0 else [])])

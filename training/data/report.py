"""What was read and what was skipped, and when a run must stop because too much was skipped."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from vlm.images.files import LeftOut

from .records import DataError


@dataclass(frozen=True)
class Broken:
    """A record or image that cannot be used, and why."""

    where: str
    reason: str


@dataclass
class Report:
    """Counts the good, names the broken, and raises DataError when the broken pass a share.

    Texts that are left out of an entry that has others, and rows that a format does not use, are
    counted apart and do not break the limit.

    `limit` is the largest share of broken entries that is still accepted, 0 to 1. The share is
    judged from `least` entries on, and once more by `check()` when the source has ended, so that
    one broken entry at the start of a large source does not stop a run.
    """

    limit: float = 0.05
    least: int = 100
    good: int = 0
    broken: list[Broken] = field(default_factory=list)
    left_out: list[Broken] = field(default_factory=list)  # texts that are none, of good entries
    unused: Counter[str] = field(default_factory=Counter)  # what is not asked for, by its kind

    @property
    def seen(self) -> int:
        return self.good + len(self.broken)

    def skip(self, broken: Broken) -> None:
        """Record one broken entry. Raises DataError when the share is above the limit."""
        self.broken.append(broken)
        if self.seen >= self.least:
            self.check()

    def pass_over(self, left_out: LeftOut) -> None:
        """Count what a listing of files left out."""
        for reason, number in left_out.totals().items():
            self.unused[f"files {reason}"] += number

    def check(self) -> None:
        """Raise DataError when the share of broken entries is above the limit."""
        if len(self.broken) > self.limit * self.seen:
            first = self.broken[0]
            raise DataError(
                f"{len(self.broken)} of {self.seen} entries are broken, more than the accepted "
                f"{self.limit:.0%}; the first is {first.where}: {first.reason}"
            )

    @property
    def complete(self) -> bool:
        """Whether everything was read and used."""
        return not (self.broken or self.left_out or self.unused)

    def summary(self, lines: int = 10) -> str:
        """Return the counts as text, with the first `lines` of what is broken or left out."""
        said = [f"{self.good} good, {len(self.broken)} skipped", *_named(self.broken, lines)]
        if self.left_out:
            count = f"{len(self.left_out)} text{'s' if len(self.left_out) > 1 else ''} left out"
            said += [count, *_named(self.left_out, lines)]
        said += [f"not used: {what} ({count})" for what, count in self.unused.items()]
        return "\n".join(said)


def _named(broken: list[Broken], lines: int) -> list[str]:
    named = [f"  {one.where}: {one.reason}" for one in broken[:lines]]
    more = len(broken) - len(named)
    return [*named, f"  and {more} more"] if more > 0 else named

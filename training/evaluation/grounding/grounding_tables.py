"""Tables of what was measured, as Markdown: for a terminal, the documentation and the grounding card alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..metrics.statistics import Metric, bootstrap_interval, paired_difference
from .curves import MATTERS, Curves, Side
from .localised import MODES, Boxed, Reference, f1
from .places import SMALL
from .pointing import Pointed, Pooling
from .word_effects import BINS, Effects


@dataclass(frozen=True)
class Table:
    """Rows of cells under `columns`; `note` says what they count."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        cells = [self.columns, *self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
            for row in cells
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        note = [self.note, ""] if self.note else []
        return "\n".join([f"**{self.title}**", "", *note, *lines])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def points(metric: Metric) -> str:
    """A share in points, with its 95 % interval."""
    interval = bootstrap_interval(metric)
    return f"{100 * metric.value:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def beyond(metric: Metric, other: Metric) -> str:
    """By how many points a share exceeds another of the same items; in bold what is more than noise."""
    difference = paired_difference(other, metric)
    low, high = 100 * difference.interval.low, 100 * difference.interval.high
    text = f"{100 * difference.value:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if difference.more_than_noise else text


def pointing_table(
    title: str, pointed: Mapping[str, Pointed], pooling: Pooling, caption_ms: float
) -> Table:
    """Hits and the share of the map inside, for all phrases and those of small things, against the centre."""
    centre = pointed["centre"]
    few = [area < SMALL for area in centre.areas]
    rows = []
    for name, one in pointed.items():
        row = [name]
        for small in (False, True):
            if small and not any(few):
                row += ["", "", ""]
                continue
            hits = one.rate("hits", pooling, small)
            ahead = "" if one is centre else beyond(hits, centre.rate("hits", pooling, small))
            inside = f"{100 * one.rate('inside', pooling, small).value:.1f}"
            row += [points(hits), ahead, inside]
        ms = 1000 * float(np.median(one.seconds))
        rows.append((*row, f"{ms:.1f}", f"{100 * ms / caption_ms:.0f} %"))
    note = (
        f"{len(centre.photos):,} phrases in {len(set(centre.photos)):,} photos, {sum(few):,} of small things, which "
        "cover less than 25 % of it. A hit is a peak whose cell's centre is in a box of the phrase, in %; inside is "
        f"the share of the map in its boxes, in %. A phrase's map is {_POOLED[pooling]}. ms are what all maps of a "
        f"text take (median), beside a caption's own {caption_ms:.0f} ms. Bold is more than noise."
    )
    figures = ("beyond centre", "inside")
    columns = ("map", "all", *figures, "small", *figures, "ms", "of a caption")
    return Table(title, columns, tuple(rows), note)


def curves_table(title: str, curves: Mapping[str, Curves], baselines: Sequence[str]) -> Table:
    """Areas under deletion and insertion, over all words and those for which the image mattered."""
    first = next(iter(curves.values()))
    mattered = int((np.asarray(first.lost) >= MATTERS).sum())
    rows = []
    for name, one in curves.items():
        others = [curves[other] for other in baselines if other != name]
        row = [name]
        for matters in (False, True):
            if matters and not mattered:
                row += ["", ""]
                continue
            sides: tuple[tuple[Side, int], ...] = (("deletion", -1), ("insertion", 1))
            for of, sign in sides:
                area = one.area(of, matters)
                gains = [paired_difference(other.area(of, matters), area) for other in others]
                beaten = sum(sign * gain.value > 0 and gain.more_than_noise for gain in gains)
                interval = bootstrap_interval(area)
                row.append(
                    f"{area.value:.2f} ({interval.low:.2f} to {interval.high:.2f}), {beaten} of {len(others)}"
                )
        rows.append(tuple(row))
    note = (
        f"{len(first.lost):,} words of human captions, one a photo; {mattered:,} of them lose {MATTERS:g} nat or more "
        "with the whole picture, which are those for which it mattered. Areas under a word's log-probability, in nats, "
        "as the picture's cells go in the order of the word's map (deletion, low is good) or come (insertion, high is "
        "good), and how many of the baselines that is better than, by more than noise."
    )
    columns = ("map", "deletion", "insertion", "deletion, mattered", "insertion, mattered")
    return Table(title, columns, tuple(rows), note)


def f1_table(
    title: str,
    found: Mapping[str, Sequence[tuple[Sequence[Boxed], Sequence[Reference]]]],
    levels: Mapping[str, float],
) -> Table:
    """F1_all and F1_loc of each method, against the centre's."""
    rows = []
    for name, photos in found.items():
        row = [name]
        for mode in MODES:
            score = f1(photos, mode)
            row += [
                points(score),
                "" if name == "centre" else beyond(score, f1(found["centre"], mode)),
            ]
        rows.append((*row, f"{levels[name]:g}"))
    photos = found["centre"]
    kinds = {kind for _, refs in photos for ref in refs for kind, _ in ref.boxed}
    note = (
        f"The model's own captions of {len(photos):,} photos, beside human captions with {len(kinds):,} classes of "
        "things. A word's box goes down from its map's peak to the level that is best for phrases of train photos, and "
        "is right where it overlaps the human box by more than half (IoU). Our classes are not the published list."
    )
    columns = ("map", "F1_all", "beyond centre", "F1_loc", "beyond centre", "level")
    return Table(title, columns, tuple(rows), note)


def sanity_table(title: str, found: Mapping[str, Mapping[str, Metric]]) -> Table:
    """Rank correlations of each method under each check."""
    checks = list(dict.fromkeys(what for by_what in found.values() for what in by_what))
    rows = []
    for name, by_what in found.items():
        cells = []
        for what in checks:
            interval = bootstrap_interval(by_what[what])
            cells.append(f"{by_what[what].value:.2f} ({interval.low:.2f} to {interval.high:.2f})")
        rows.append((name, *cells))
    photos = max(len(metric.rows) for by_what in found.values() for metric in by_what.values())
    note = (
        "Spearman's correlation of a word's map with its map when something is changed, over the last words of phrases "
        f"in human captions of {photos:,} photos. Another word or picture, or layers whose weights are shuffled, ought "
        "to change a map (low is good); a picture that is mirrored, moved or saved as a JPEG of low quality ought not "
        "(high is good)."
    )
    return Table(title, ("map", *checks), tuple(rows), note)


def effects_table(title: str, found: Mapping[str, Effects]) -> Table:
    """A row for each class of words: what the image did for them, and in which shares."""
    low, small, much, all_of_it = BINS
    rows = []
    for name, effects in found.items():
        interval = bootstrap_interval(effects.mean)
        mean = f"{effects.mean.value:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"
        shares = (f"{100 * share:.0f}" for share in effects.shares)
        rows.append((name, f"{len(effects.nats):,}", mean, *shares))
    note = (
        "Words of the model's own captions by class: how many nats of log-probability the image gave them (mean), and "
        "% of them in each range. Language alone would have written those about 0."
    )
    ranges = (
        f"below {low:g}",
        f"{low:g} to {small:g}",
        f"to {much:g}",
        f"to {all_of_it:g}",
        "more",
    )
    return Table(title, ("class", "words", "mean", *ranges), tuple(rows), note)


_POOLED: Mapping[Pooling, str] = {
    "mean": "the mean of its words'",
    "max": "the highest of its words' at each place",
    "last": "its last word's",
}

from __future__ import annotations

import pytest

from training.data.records import DataError
from training.data.report import Broken, Report


def test_a_few_broken_entries_are_named_but_do_not_stop():
    report = Report(limit=0.05, good=99)
    report.skip(Broken("image 7", "cut short"))
    report.check()
    assert report.summary() == "99 good, 1 skipped\n  image 7: cut short"


def test_too_large_a_share_stops_with_the_reason():
    report = Report(limit=0.05, least=100, good=94)
    for i in range(5):
        report.skip(Broken(f"image {i}", "cut short"))
    with pytest.raises(DataError, match=r"6 of 100 entries .* 5%; the first is image 0: cut short"):
        report.skip(Broken("image 5", "cut short"))


def test_the_share_is_not_judged_before_enough_was_seen_but_at_the_end():
    report = Report(limit=0.5, least=100)
    report.skip(Broken("image 0", "cut short"))
    with pytest.raises(DataError):
        report.check()


def test_summary_shortens_a_long_list():
    report = Report(limit=1)
    for i in range(5):
        report.skip(Broken(f"image {i}", "cut short"))
    assert report.summary(lines=2).endswith("image 1: cut short\n  and 3 more")


def test_texts_left_out_and_rows_not_used_are_told_and_do_not_break_the_limit():
    report = Report(limit=0, good=3)
    assert report.complete
    report.left_out.append(Broken("a.json, entry 2", "the caption 1 of 5 is empty"))
    report.unused["images without a caption"] += 2
    report.check()
    assert not report.complete
    assert report.summary() == (
        "3 good, 0 skipped\n"
        "1 text left out\n"
        "  a.json, entry 2: the caption 1 of 5 is empty\n"
        "not used: images without a caption (2)"
    )

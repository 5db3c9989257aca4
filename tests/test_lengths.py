"""What does not fit the decoder is counted and named before a run begins, and teaches nothing wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from training.data.records import DataError, ImageRef, Record
from training.loop.examples import examples
from training.loop.lengths import fit, fit_to_decoder
from training.recipe.recipe import Recipe, Source, Validation, Vision
from training.recipe.sources import Data, Group

if TYPE_CHECKING:
    from vlm.captioner import Captioner

SOURCE = Source("photos")
LONG = "a red circle on a white table " * 10


def group(name: str, *records: tuple[str | None, tuple[str, ...]]) -> Group:
    ref = ImageRef(name)
    return Group(ref, tuple(Record(ref, texts, question) for question, texts in records), SOURCE)


def recipe(*sources: Source) -> Recipe:
    return Recipe(sources=sources, vision=Vision("test_efficientnet", (96, 96), "random"))


def test_a_text_counts_as_cut_exactly_where_its_row_lacks_the_end(tiny: Captioner) -> None:
    one = group("a.png", (None, ("a dog", LONG)), ("is there a dog?", ("yes", "no")))
    for max_length in range(8, 60):
        found = fit([one], tiny.tokenizer, max_length)
        ends = [
            row.text[-1] == tiny.tokenizer.end for row in examples(one, tiny.tokenizer, max_length)
        ]
        assert found.texts == 4
        assert bool(found.lengths) == (not all(ends))


def test_sentences_say_how_many_where_and_how_long(tiny: Captioner) -> None:
    train = [
        group("a.png", (None, ("a dog", LONG))),
        group("b.png", ("is it?", ("...",)), ("what " * 90, ("yes",))),
        group("c.png", ("is it?", ("yes", "no", "."))),
    ]
    dev = [group("d.png", ("why " * 90, ("yes",)), ("is it?", ("no",)))]
    data = Data([train], [dev], [])
    told = fit_to_decoder(data, recipe(SOURCE), tiny.tokenizer, 24)
    cut, wordless, unread, dev_unread = told
    assert cut.startswith("photos: 1 of 7 texts are cut at 24 tokens")
    assert "of a.png, takes" in cut
    assert wordless.startswith("photos: 2 of 7 texts have no word")
    assert unread.startswith("photos: 1 of 3 questions cannot be read and are left out")
    assert "b.png: the question is too long" in unread
    assert dev_unread.startswith("photos: 1 of 2 dev questions cannot be read and count as wrong")
    assert "d.png: the question is too long" in dev_unread
    assert [g.image.path for g in data.all_train] == ["a.png", "c.png"]  # b teaches nothing
    assert data.all_dev == dev


def test_nothing_is_said_where_all_fits(tiny: Captioner) -> None:
    data = Data([[group("a.png", (None, ("a dog",)))]], [[]], [])
    assert fit_to_decoder(data, recipe(SOURCE), tiny.tokenizer, 24) == []


def test_each_source_has_its_own_sentence(tiny: Captioner) -> None:
    sources = [Source("first"), Source("second"), Source("third")]
    texts = [LONG, "a dog", LONG]
    data = Data([[group("a.png", (None, (text,)))] for text in texts], [[], [], []], [])
    told = fit_to_decoder(data, recipe(*sources), tiny.tokenizer, 24)
    assert [sentence.partition(":")[0] for sentence in told] == ["first", "third"]


def test_a_run_with_nothing_to_learn_is_told_why(tiny: Captioner) -> None:
    data = Data([[group("a.png", ("what " * 90, ("yes",)))]], [[]], [])
    with pytest.raises(
        DataError, match="nothing to learn: photos: 1 of 1 questions cannot be read"
    ):
        fit_to_decoder(data, recipe(SOURCE), tiny.tokenizer, 24)


def test_a_loss_that_could_never_be_measured_is_told_before_the_run(tiny: Captioner) -> None:
    learnt = group("a.png", ("is it?", ("yes",)))
    data = Data([[learnt]], [[group("b.png", ("what " * 90, ("yes",)))]], [])
    with pytest.raises(DataError, match=r"no dev text to measure the loss on: .* too long"):
        fit_to_decoder(data, recipe(SOURCE), tiny.tokenizer, 24)
    last = replace(recipe(SOURCE), validation=Validation(metric="last"))
    assert len(fit_to_decoder(data, last, tiny.tokenizer, 24)) == 1

"""Copying from passages: what is pointed at, where a copy begins, and how it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from vlm.captioner import Captioner
from vlm.model.grounding import Grounding
from vlm.model.pointer import FIRMNESS, NO_PASSAGE, NO_TOKEN, Pointer, standing_before

PLAIN, NAME, MIDDLE, LAST, COMMA = 1, 2, 3, 4, 5  # a name of three tokens, the latter two inside it
BOTH = torch.tensor([[PLAIN, NAME, MIDDLE, LAST, COMMA], [MIDDLE, NAME, LAST, NO_TOKEN, NO_TOKEN]])


@pytest.fixture
def pointer() -> Pointer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Pointer(width=8, channels=4, vocab_size=6)
    made.inside[[MIDDLE, LAST]] = True
    return made.eval()


def weights(
    pointer: Pointer,
    said: list[int],
    near: torch.Tensor | None = None,
    passages: torch.Tensor = BOTH,
) -> torch.Tensor:
    """Of the last token of `said`, `(P,)`, for slots that the state and the match tell nothing of."""
    ids = passages.view(1, -1)
    numbers = torch.arange(len(passages)).repeat_interleave(passages.shape[1])
    numbers = numbers.where(ids != NO_TOKEN, NO_PASSAGE)
    keys = torch.zeros(1, 1, ids.shape[1], 4)
    grounding = Grounding(None, (), None, (keys, keys.repeat(1, 1, 1, 2)), None, ids, numbers)
    near = torch.zeros(1, 1, ids.shape[1]) if near is None else near
    with torch.no_grad():
        return pointer.weights(torch.zeros(1, 1, 8), near, torch.tensor([said]), grounding)[0, 0]


def test_a_copy_begins_where_a_word_does(pointer: Pointer):
    begun = weights(pointer, [PLAIN + 4])  # what no passage has
    assert begun.nonzero().flatten().tolist() == [0, 1, 4, 6]


@pytest.mark.parametrize(
    ("said", "next_slot"), [([NAME], 2), ([PLAIN, NAME, MIDDLE], 3), ([COMMA, PLAIN, NAME], 2)]
)
def test_a_name_goes_on_where_it_was(pointer: Pointer, said: list[int], next_slot: int):
    near = torch.full((1, 1, 10), -3.0)
    near[..., :5] = 0  # the match tells of which passage
    following = weights(pointer, said, near)
    assert following.argmax() == next_slot
    assert following[next_slot] > 0.8


def test_a_word_goes_on_only_where_all_of_it_stands(pointer: Pointer):
    """ "doc" of "documents" is no beginning of "decibels", though both may have a "c" before the next token."""
    other = torch.tensor([[NAME, MIDDLE, LAST, COMMA]])
    assert weights(pointer, [NAME, MIDDLE], passages=other)[2] > 0.5
    assert weights(pointer, [PLAIN, MIDDLE], passages=other)[[1, 2]].tolist() == [0, 0]


def test_a_copy_within_a_word_is_firmer(pointer: Pointer):
    ids = torch.tensor([[NAME, MIDDLE]])
    embedded = torch.eye(8)[ids]  # (1, 2, 8)
    none = torch.zeros(1, 1, 2)
    keys = torch.zeros(1, 1, 2, 4)
    grounding = Grounding(None, (), None, (keys, embedded[None]), None, ids, none[0].long())
    with torch.no_grad():
        for said, slot, times in (([COMMA], 0, 1.0), ([NAME], 1, FIRMNESS)):
            ends = torch.zeros(1, 1, 8), none, torch.tensor([said]), grounding
            copied, weight = pointer(*ends)[0, 0], pointer.weights(*ends)[0, 0]
            assert copied[ids[0, slot]] == pytest.approx(times * weight[slot].item())


def test_a_name_with_a_syllable_twice_ends(pointer: Pointer):
    """After "Ma-la-la" stands a comma, and not "la" for a third time."""
    ids = torch.tensor([[NAME, MIDDLE, MIDDLE, COMMA]])
    begun = weights(pointer, [PLAIN, NAME, MIDDLE], passages=ids)
    assert begun.nonzero().flatten().tolist() == [0, 2, 3]
    whole = weights(pointer, [PLAIN, NAME, MIDDLE, MIDDLE], passages=ids)
    assert whole.nonzero().flatten().tolist() == [0, 3]


def test_what_is_begun_where_the_match_is_is_finished(pointer: Pointer):
    sure = weights(pointer, [NAME]).sum()
    far = torch.zeros(1, 1, 10)
    far[..., [2, 7]] = -12  # the match is elsewhere
    assert sure > 0.95
    assert weights(pointer, [NAME], far).sum() < 0.5


def test_what_stands_before_a_slot_is_of_its_own_passage():
    ids = torch.tensor([[7, 8, 7, 8, NO_TOKEN, 8]])
    numbers = torch.tensor([[0, 0, 1, 1, NO_PASSAGE, 2]])
    one, two, *_ = standing_before(torch.tensor([[8, 7]]), 1, ids, numbers)
    assert one[0, 0].tolist() == [False, True, False, True, False, False]
    assert not two.any()  # 8, 7 stands in no passage


def test_repeated_digits_are_told_apart_by_what_stands_before_both():
    ids = torch.tensor([[1, 8, 8, 4]])
    runs = standing_before(torch.tensor([[1, 8]]), 1, ids, torch.zeros_like(ids))
    assert [alike[0, 0].tolist() for alike in runs][:2] == [
        [False, False, True, True],
        [False, False, True, False],
    ]


def test_every_end_of_a_text_looks_back_from_itself():
    ids = torch.tensor([[1, 2, 3]])
    said = torch.tensor([[1, 2, 9]])
    numbers = torch.zeros_like(ids)
    whole = torch.stack(list(standing_before(said, 3, ids, numbers)))  # (LONGEST, 1, 3, 3)
    for end in range(3):
        alone = torch.stack(list(standing_before(said[:, : end + 1], 1, ids, numbers)))
        assert torch.equal(whole[:, :, end], alone[:, :, 0])


def test_the_pointer_copies_what_it_points_at(reading: Captioner):
    pointer = reading.model.documents.layers.pointer
    words = reading.model.decoder.token_embedding
    ids = torch.tensor([[300, 301, 302]])
    memory = reading.encode(Image.new("RGB", (64, 64))).memory
    slots, grounding = reading.model.documents(memory, ids[None], words)
    state = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(0))
    key = torch.zeros(1, 1, 3, pointer.query.out_features)
    key[0, 0, 1] = 100 * pointer.query(pointer.norm(state))[0, 0].detach()
    planted = replace(grounding, pointer=(key, grounding.pointer[1]))
    said = torch.tensor([[299]])
    copied = pointer(state, torch.zeros(1, 1, 3), said, planted) / pointer.strength
    torch.testing.assert_close(copied[0, 0], words.weight[301].detach(), atol=1e-3, rtol=1e-3)
    assert slots.tokens.shape[1] == memory.tokens.shape[1] + 3


def test_tokens_within_words_are_told_from_those_that_begin_one(reading: Captioner):
    tokenizer = reading.tokenizer
    inside = tokenizer.inside_words(tokenizer.vocab_size)
    ids, pieces = tokenizer.pieces("the dogs' Zwickelbrik, 4711")
    told = [inside[i] for i in ids]
    assert told == [p[0] != " " and p[0].isalnum() for p in pieces]
    assert any(told)
    assert not any(inside[i] for i in (tokenizer.pad, tokenizer.end))

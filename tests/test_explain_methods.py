"""Every method against what can be known: planted cells, brute force, and the words of the paper worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlm.explain.finished import Finished
from vlm.explain.maps import METHODS, word_maps
from vlm.explain.method import Choice
from vlm.generate import generate
from vlm.model.memory import Memory, image_memory, word_memory
from vlm.options import Options
from vlm.prompts import caption_prompt

GRID = (5, 6)
CELLS = GRID[0] * GRID[1]
CELL = 15  # row 2, column 3


def text_about(captioner, memory: Memory, ids: tuple[int, ...], question=None) -> Finished:
    model = captioner.model
    with torch.inference_mode():
        projected = model.project(memory)
    return Finished(model, captioner.tokenizer, memory, projected, ids, question)


@pytest.fixture(scope="module")
def memory(tiny) -> Memory:
    """A photo whose every cell is another."""
    generator = torch.Generator().manual_seed(1)
    return image_memory(torch.randn(1, CELLS, 32, generator=generator), GRID)


@pytest.fixture(scope="module")
def planted(tiny) -> Finished:
    """What the model says of a photo that is all alike but for one cell, and would not say without it."""
    tokens = torch.zeros(1, CELLS, 32)
    tokens[0, CELL] = 6 * torch.randn(32, generator=torch.Generator().manual_seed(2))
    photo = text_about(tiny, image_memory(tokens, GRID), ())
    said = greedy(tiny, photo.memory)[:1]
    assert said != greedy(tiny, image_memory(torch.zeros(1, CELLS, 32), GRID))[:1]
    return replace(photo, ids=said)


def greedy(captioner, memory: Memory) -> tuple[int, ...]:
    """The first tokens of what a model says of a memory."""
    projected = text_about(captioner, memory, ()).projected
    prompt = caption_prompt(captioner.tokenizer).ids
    options = Options(max_tokens=4, min_tokens=4)
    tokenizer = captioner.tokenizer
    decoder = captioner.model.decoder
    ((best,),) = generate(decoder, projected, [prompt], tokenizer.end, tokenizer.pad, options)
    return best.ids


@pytest.mark.parametrize("method", ["value", "occlusion"])
def test_the_one_cell_that_an_answer_hangs_on_is_found(planted, method):
    (word,) = word_maps(planted, method)
    near = torch.zeros(GRID)
    near[1:4, 2:5] = 1  # windows of 3 x 3 that cover the cell
    assert word.mass > 0
    assert (word.weights * near).sum() > 0.9
    assert word.weights[2, 3] > 0.99 * word.weights.max()


def without(memory: Memory, hidden: list[int]) -> Memory:
    """A memory in which some slots never were."""
    kept = [i for i in range(memory.tokens.shape[1]) if i not in hidden]
    return image_memory(memory.tokens[:, kept], (1, len(kept)))


@torch.inference_mode()
def logprobs(captioner, memory: Memory, prompt, ids) -> torch.Tensor:
    sequence = torch.tensor([[*prompt, *ids]])
    decoder = captioner.model.decoder
    hidden = decoder(sequence, decoder.project(memory)).hidden[0, len(prompt) - 1 : -1]
    return decoder.logits(hidden).log_softmax(dim=-1)[range(len(ids)), list(ids)]


@pytest.mark.parametrize("budget", [1, 100_000_000])
def test_hiding_in_one_batch_is_hiding_one_by_one(tiny, memory, budget, monkeypatch):
    monkeypatch.setattr("vlm.explain.occlusion.BUDGET", budget)
    ids = tuple(tiny.tokenizer.encode("a dog runs"))
    prompt = caption_prompt(tiny.tokenizer).ids
    shown = logprobs(tiny, memory, prompt, ids)
    expected = torch.empty(len(ids), CELLS)
    for cell in range(CELLS):
        row, column = divmod(cell, GRID[1])
        hidden = [
            y * GRID[1] + x
            for y in range(max(0, row - 1), min(GRID[0], row + 2))
            for x in range(max(0, column - 1), min(GRID[1], column + 2))
        ]
        expected[:, cell] = shown - logprobs(tiny, without(memory, hidden), prompt, ids)
    expected = expected.clamp(min=0)
    text = text_about(tiny, memory, ids)
    actual = METHODS["occlusion"].weigh(text, Choice())[0].patches[len(prompt) :].flatten(1)
    torch.testing.assert_close(actual, expected / expected.sum(dim=1, keepdim=True))


def test_a_word_of_the_question_has_what_hiding_moves(tiny, memory):
    """A question's word was given, so no word behind it plays a part in its map."""
    ids = tuple(tiny.tokenizer.encode("yes"))
    one = word_maps(text_about(tiny, memory, ids, "is there a dog?"), "occlusion")
    other = word_maps(text_about(tiny, memory, ids, "is there a cat?"), "occlusion")
    for before, after in zip(one[:3], other[:3]):
        torch.testing.assert_close(before.weights, after.weights)
        assert before.weights.std() > 0
    assert not torch.allclose(one[3].weights, other[3].weights, atol=1e-4)


@pytest.mark.parametrize("method", ["attention", "value", "occlusion"])
def test_other_segments_have_their_share(tiny, memory, method):
    words = 3 * torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(3))
    both = Memory.concat([memory, word_memory(words, "tags", [["dog", "grass"]])])
    ids = greedy(tiny, both)
    maps = word_maps(text_about(tiny, both, ids), method)
    for word in maps:
        assert word.elsewhere.keys() == {"tags"}
        assert 0 <= word.elsewhere["tags"] <= 1
        assert word.mass + word.elsewhere["tags"] == pytest.approx(1, abs=1e-5)
    assert any(word.elsewhere["tags"] > 0.01 for word in maps)
    unsure = Memory.concat([memory, word_memory(words, "tags", [[]])])
    alone, masked = (word_maps(text_about(tiny, m, ids), method) for m in (memory, unsure))
    for word, same in zip(alone, masked):
        torch.testing.assert_close(word.weights, same.weights)
        assert same.mass == pytest.approx(1, abs=1e-5)
        assert same.elsewhere.get("tags", 0.0) == 0


@torch.inference_mode()
def test_values_are_weighed_as_the_sublayer_adds_them(tiny, memory):
    """By hand: of the last sublayer, what each slot adds to a token, whose sum is what the sublayer adds."""
    ids = tuple(tiny.tokenizer.encode("a dog"))
    text = text_about(tiny, memory, ids)
    decoder = tiny.model.decoder
    body = [s.body for s in decoder.sublayers if s.kind == "c"][1]
    attention = decoder(text.sequence, text.projected, explicit=True).cross_attention[1][0]
    values = text.projected.layers[1][1][0]  # (H, S, D / H)
    size = values.shape[-1]
    added = torch.zeros(len(text.rows), CELLS, 32)
    for head in range(len(values)):
        weight = body.out.weight[:, head * size : (head + 1) * size]
        for i, row in enumerate(text.rows):
            added[i] += attention[head, row][:, None] * (values[head] @ weight.T)
    lengths = added.norm(dim=-1)
    expected = (lengths / lengths.sum(dim=-1, keepdim=True)).unflatten(-1, GRID)
    actual = METHODS["value"].weigh(text, Choice(layer=1))[0].patches
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    (one,) = word_maps(replace(text, ids=ids[1:]), "value", Choice(heads=((1, 2),)))
    assert one.weights.sum().item() == pytest.approx(1, abs=1e-5)

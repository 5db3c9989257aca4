"""What a step minimises: cross-entropy as it is defined, and rewards that move the model the right way."""

from __future__ import annotations

import copy
import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks

from training.data.records import ImageRef, Record
from training.loop.examples import UNKNOWN_PASSAGE, Batch, Example, collate, examples
from training.loop.objectives import END_WORD, Likelihood, SelfCritic, not_found
from training.recipe.recipe import SelfCritical, Source
from training.recipe.sources import Group
from vlm.model.grounding import NO_PASSAGE
from vlm.model.model import IGNORE_INDEX, VisionLanguageModel
from vlm.prompts import caption_prompt

if TYPE_CHECKING:
    from vlm.captioner import Captioner

CAPTIONS = {
    "dog": ["a brown dog runs through the grass", "a brown dog in the grass"],
    "men": ["two men play football in the park", "two men in the park"],
    "cat": ["a black cat sleeps on the sofa", "a cat on the sofa"],
}


@pytest.fixture
def model(tiny: Captioner) -> VisionLanguageModel:
    return copy.deepcopy(tiny.model)


@pytest.fixture
def batch(tiny: Captioner) -> Batch:
    """Three images as patches; the last also has a question."""
    rows = []
    for key, texts in CAPTIONS.items():
        records = [Record(ImageRef(key), tuple(texts), weight=2.0 if key == "men" else 1.0)]
        if key == "cat":
            records.append(Record(ImageRef(key), ("yes",), "is there a dog in the picture?"))
        group = Group(ImageRef(key), tuple(records), Source("x"))
        rows.append(examples(group, tiny.tokenizer, 48, random.Random(0)))
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3, 9, tiny.model.vision.width, generator=generator).half()
    return Batch(tuple(CAPTIONS), patches, (3, 3), collate(rows, tiny.tokenizer.pad))


def rows_of(batch: Batch) -> list[tuple[int, list[int], list[int], float]]:
    """Every row without its padding: image, ids, targets, weight."""
    rows = []
    for chunk in batch.chunks:
        for ids, targets, weight, image in zip(
            chunk.ids, chunk.targets, chunk.weights.tolist(), chunk.image.tolist()
        ):
            length = int((targets != IGNORE_INDEX).nonzero().max()) + 1
            rows.append((image, ids[:length].tolist(), targets[:length].tolist(), weight))
    return rows


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_sum_over_rows_taken_one_by_one(
    model: VisionLanguageModel, batch: Batch, smoothing: float
) -> None:
    expected = 0.0
    for image, ids, targets, weight in rows_of(batch):
        memory = model.remember(batch.images[image : image + 1].float(), (3, 3))
        hidden = model.decoder(torch.tensor([ids]), model.decoder.project(memory)).hidden[0]
        loss = F.cross_entropy(
            model.decoder.logits(hidden),
            torch.tensor(targets),
            label_smoothing=smoothing,
            reduction="sum",
        )
        expected += weight * loss.item()
    assert Likelihood(model, smoothing)(batch).item() == pytest.approx(expected, rel=1e-5)
    assert batch.targets == sum(t != IGNORE_INDEX for row in rows_of(batch) for t in row[2])


def test_pixels_give_the_same_loss_as_their_patches(
    model: VisionLanguageModel, batch: Batch
) -> None:
    pixels = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        patches, grid = model.vision.eval()(pixels)
    from_pixels = Batch(batch.keys, pixels, None, batch.chunks)
    from_patches = Batch(batch.keys, patches, grid, batch.chunks)
    losses = [Likelihood(model)(b).item() for b in (from_pixels, from_patches)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_recomputing_gives_the_same_gradients_from_less_memory(
    model: VisionLanguageModel, batch: Batch
) -> None:
    gradients, kept = [], []
    for recompute in (False, True):
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        model.zero_grad()
        model.train()
        model.vision.eval()
        torch.manual_seed(0)  # dropout must fall alike in both passes
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = Likelihood(model, 0.1, recompute)(batch)
        loss.backward()
        kept.append(sum(sizes))
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.allclose(plain, recomputed, atol=1e-5)
    assert kept[1] < kept[0] / 3


def test_losses_are_summed_in_float32_under_autocast(
    model: VisionLanguageModel, batch: Batch
) -> None:
    """A float16 holds nothing above 65,504, which the losses of 160 images exceed."""
    likelihood = Likelihood(model.eval())
    for half in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", half):
            one = likelihood(batch)
            weights = [rows.weights * 1e4 for rows in batch.chunks]
            chunks = [replace(rows, weights=w) for rows, w in zip(batch.chunks, weights)]
            many = likelihood(replace(batch, chunks=tuple(chunks)))
        assert one.dtype == torch.float32
        assert many.item() == pytest.approx(1e4 * one.item(), rel=1e-5)


def test_padding_alone_has_no_loss_and_no_gradient(
    model: VisionLanguageModel, tiny: Captioner
) -> None:
    patches = torch.zeros(1, 9, model.vision.width)
    nothing = Batch((), patches, (3, 3), collate([[]], tiny.tokenizer.pad))
    loss = Likelihood(model, 0.1)(nothing)
    loss.backward()
    assert loss.item() == 0
    trained = [*model.adapter.parameters(), *model.decoder.parameters()]
    assert all(p.grad is not None and not p.grad.any() for p in trained)


@pytest.fixture
def critic(tiny: Captioner) -> SelfCritic:
    return SelfCritic(tiny.tokenizer, CAPTIONS, SelfCritical(samples=4))


def test_samples_replace_captions_and_questions_stay(
    model: VisionLanguageModel, batch: Batch, critic: SelfCritic, tiny: Captioner
) -> None:
    torch.manual_seed(0)
    [judged], reward = critic(model.eval(), [batch])
    rows = rows_of(judged)
    caption = caption_prompt(tiny.tokenizer).ids[0]
    sampled = [row for row in rows if row[1][0] == caption]
    asked = [row for row in rows if row[1][0] != caption]
    assert sorted(row[0] for row in sampled) == [0] * 4 + [1] * 4 + [2] * 4
    assert asked == [row for row in rows_of(batch) if row[1][0] != caption]
    for image in range(3):  # against the mean of the others, advantages cancel out
        assert sum(row[3] for row in sampled if row[0] == image) == pytest.approx(0, abs=1e-4)
    assert reward >= 0
    torch.manual_seed(0)
    assert critic(model, [batch])[0][0].chunks[0].ids.equal(judged.chunks[0].ids)
    assert not critic(model, [batch])[0][0].chunks[0].ids.equal(judged.chunks[0].ids)


def test_images_without_captions_are_left_to_cross_entropy(
    model: VisionLanguageModel, batch: Batch, tiny: Captioner
) -> None:
    others = {"x": ["a dog"], "y": ["a cat"]}
    critic = SelfCritic(tiny.tokenizer, others, SelfCritical())
    judged, _ = critic(model, [batch])
    assert judged == [batch]


def test_a_caption_without_an_ending_earns_less(critic: SelfCritic) -> None:
    cut = "a brown dog in the"
    rewards = critic.reward(["dog"] * 3, [cut, f"{cut} {END_WORD}", f"{cut} grass {END_WORD}"])
    assert rewards[2] > max(rewards[0], rewards[1])


def test_training_on_rewards_raises_the_reward(
    model: VisionLanguageModel, batch: Batch, tiny: Captioner
) -> None:
    """From a model that half knows the captions, as self-critical training begins in practice."""
    torch.manual_seed(0)  # what is sampled is drawn by torch's own generator
    likelihood = Likelihood(model)
    first = torch.optim.Adam([*model.adapter.parameters(), *model.decoder.parameters()], lr=1e-2)
    for _ in range(14):
        loss = likelihood(batch) / batch.targets
        first.zero_grad()
        loss.backward()
        first.step()
    critic = SelfCritic(tiny.tokenizer, CAPTIONS, SelfCritical(samples=8))
    second = torch.optim.Adam([*model.adapter.parameters(), *model.decoder.parameters()], lr=2e-3)
    rewards = []
    for _ in range(30):
        [judged], reward = critic(model.eval(), [batch])
        rewards.append(reward)
        loss = likelihood(judged) / judged.targets
        second.zero_grad()
        loss.backward()
        second.step()
    assert sum(rewards[-5:]) > 1.2 * sum(rewards[:5])


def test_the_greedy_baseline_is_the_reward_of_the_greedy_caption(
    model: VisionLanguageModel, batch: Batch, tiny: Captioner
) -> None:
    options = SelfCritical(samples=3, baseline="greedy")
    critic = SelfCritic(tiny.tokenizer, CAPTIONS, options)
    [judged], reward = critic(model.eval(), [batch])
    caption = caption_prompt(tiny.tokenizer).ids[0]
    weights = [row[3] for row in rows_of(judged) if row[1][0] == caption]
    answers = [
        model.decoder.project(model.remember(batch.images[i : i + 1].float(), (3, 3)))
        for i in range(3)
    ]
    greedy = []
    for key, projected in zip(CAPTIONS, answers):
        prompt = [caption_prompt(tiny.tokenizer).ids]
        [[best]] = generate_greedy(model, projected, prompt, tiny)
        text = tiny.tokenizer.decode(best.ids) + f" {END_WORD}" * best.finished
        greedy.append(critic.reward([key], [text])[0])
    assert sum(weights) == pytest.approx(9 * reward - 3 * sum(greedy), abs=1e-3)


def generate_greedy(model, projected, prompt, tiny):  # type: ignore[no-untyped-def]
    from vlm.generate import generate
    from vlm.options import Options

    tokenizer, limit = tiny.tokenizer, model.config.decoder.max_length
    options = Options(max_tokens=limit)
    return generate(model.decoder, projected, prompt, tokenizer.end, tokenizer.pad, options)


def test_examples_can_be_weighted_against(model: VisionLanguageModel, tiny: Captioner) -> None:
    """A row of negative weight becomes less likely, which is what a poor sample asks for."""
    prompt, text = caption_prompt(tiny.tokenizer).ids, tuple(tiny.tokenizer.encode("a dog"))
    patches = torch.zeros(1, 9, model.vision.width)

    def nats(weight: float) -> float:
        rows = collate([[Example(prompt, text, weight)]], tiny.tokenizer.pad)
        return Likelihood(model)(Batch(("a",), patches, (3, 3), rows))

    optimiser = torch.optim.SGD(model.decoder.parameters(), lr=0.05)
    before = nats(1.0).item()
    nats(-1.0).backward()
    optimiser.step()
    assert nats(1.0).item() > before


def test_where_an_answer_stands_is_a_share_of_what_is_found_there():
    numbers = torch.tensor([[0, 0, 1, NO_PASSAGE]]).expand(4, 4)
    shares = torch.tensor([[0.1, 0.3, 0.2, 0.0, 0.4]]).expand(4, 5)
    passages = torch.tensor([0, 1, NO_PASSAGE, UNKNOWN_PASSAGE])
    expected = -sum(math.log(share) for share in (0.4, 0.2, 0.4))
    assert not_found(shares.log(), numbers, passages).item() == pytest.approx(expected)

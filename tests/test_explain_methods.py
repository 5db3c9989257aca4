"""Every method against what can be known: planted cells, brute force, and the words of the paper worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlm.captioner import Captioner
from vlm.explain.context import less_the_echo
from vlm.explain.contrast import Decision, decisions_of
from vlm.explain.finished import Finished
from vlm.explain.hiding import windows
from vlm.explain.logit import smoothed
from vlm.explain.maps import METHODS, word_maps
from vlm.explain.method import Choice, MethodError
from vlm.explain.relevance import Watched, relevance_of_slots
from vlm.explain.value_norms import projected_values
from vlm.generate import generate
from vlm.model.config import AdapterConfig, VisionConfig
from vlm.model.memory import Memory, image_memory, word_memory
from vlm.model.model import VisionLanguageModel
from vlm.model.vision import default_preprocess
from vlm.options import Options
from vlm.prompts import caption_prompt
from vlm.runtimes.packed import packed

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


@pytest.mark.parametrize("method", ["value", "occlusion", "contrast"])
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


@pytest.mark.parametrize("grid", [(8, 8), (16, 16), (24, 24), (14, 14), (16, 8), (20, 12)])
def test_windows_hide_as_much_of_the_photo_on_any_grid(grid):
    """Three eighths of each side, where the photo's edge cuts nothing off; none leans to a side."""
    covers, shares = windows(grid)
    assert covers.sum(dim=1).max() / (grid[0] * grid[1]) == pytest.approx(9 / 64, abs=0.015)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(grid[0] * grid[1]))
    near = (shares @ covers.float()).unflatten(1, grid).unflatten(0, grid)  # how much each hides
    torch.testing.assert_close(near.flip(0, 2), near)
    torch.testing.assert_close(near.flip(1, 3), near)
    torch.testing.assert_close(near, near.permute(2, 3, 0, 1))  # and is hidden by
    assert (near.diagonal(0, 0, 2).diagonal(0, 0, 1) == 1).all()


@pytest.mark.parametrize("grid", [(3, 7), (5, 6), (8, 8), (9, 4)])
def test_small_grids_have_windows_of_3_cells_or_1(grid):
    covers, shares = windows(grid)
    cells = torch.arange(grid[0] * grid[1])
    apart = [(cells // grid[1])[:, None] - cells // grid[1]]
    apart.append((cells % grid[1])[:, None] - cells % grid[1])
    reach = 1 if min(grid) > 3 else 0
    assert torch.equal(covers, (apart[0].abs() <= reach) & (apart[1].abs() <= reach))
    assert torch.equal(shares, torch.eye(len(cells)))


@pytest.mark.parametrize("budget", [1, 100_000_000])
def test_hiding_in_one_batch_is_hiding_one_by_one(tiny, memory, budget, monkeypatch):
    monkeypatch.setattr("vlm.explain.hiding.BUDGET", budget)
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


@torch.inference_mode()
def test_hiding_pixels_is_asking_of_photos_with_holes(tiny):
    """One by one, through the whole pipeline, on a grid whose squares are single cells."""
    image = tiny.encode(torch.rand(96, 96, 3).mul(255).byte().numpy())
    answer = image.explain("a dog")
    height, width = image.memory.image.grid
    assert (height, width) == (3, 3)
    pixels = tiny.preprocess(image.picture)[0]
    expected = torch.empty(len(answer.ids), 9)
    for cell in range(9):
        row, column = divmod(cell, 3)
        holed = pixels.clone()
        holed[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = 0
        prompt = caption_prompt(tiny.tokenizer).ids
        seen, left = (
            logprobs(tiny, tiny.model.encode(x[None]), prompt, answer.ids) for x in (pixels, holed)
        )
        expected[:, cell] = (seen - left).clamp(min=0)
    maps = answer.maps(method="pixels")
    weights = torch.stack([m.weights.flatten() for m in maps])
    torch.testing.assert_close(
        weights, expected / expected.sum(dim=1, keepdim=True), atol=1e-3, rtol=1e-2
    )
    with pytest.raises(MethodError, match="the whole photo"):
        word_maps(text_about(tiny, image.memory, answer.ids), "pixels")


def test_a_word_of_the_question_has_what_hiding_moves(tiny, memory):
    """A question's word was given, so no word behind it plays a part in its map."""
    ids = tuple(tiny.tokenizer.encode("yes"))
    one = word_maps(text_about(tiny, memory, ids, "is there a dog?"), "occlusion")
    other = word_maps(text_about(tiny, memory, ids, "is there a cat?"), "occlusion")
    for before, after in zip(one[:3], other[:3]):
        torch.testing.assert_close(before.weights, after.weights)
        assert before.weights.std() > 0
    assert not torch.allclose(one[3].weights, other[3].weights, atol=1e-4)


@pytest.mark.parametrize(
    "method", ["logit", "attention", "value", "relevance", "occlusion", "contrast", "context"]
)
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


@pytest.mark.parametrize("heads", [(), ((0, 1), (1, 3))])
def test_what_a_slot_says_for_a_word_is_what_it_adds_along_the_words_gradient(tiny, memory, heads):
    """By autograd and by hand: each head's vector of each slot, along the gradient of the word's log-probability."""
    ids = greedy(tiny, memory)
    text = text_about(tiny, memory, ids)
    decoder, config = tiny.model.decoder, tiny.model.config.decoder
    with torch.no_grad():
        decoded = decoder(text.sequence, text.projected, explicit=True)
    rows = slice(len(text.prompt.ids) - 1, -1)
    # Through the final norm with its scale fixed: what is left of it is its weight, and that it takes off the mean.
    hidden = decoded.hidden[0, rows].detach().clone().requires_grad_()
    logprobs = decoder.logits(hidden).log_softmax(dim=-1)
    logprobs[torch.arange(len(ids)), list(ids)].sum().backward()
    towards = hidden.grad * decoder.final_norm.weight.detach()
    towards = towards - towards.mean(dim=1, keepdim=True)
    bodies = [sublayer.body for sublayer in decoder.sublayers if sublayer.kind == "c"]
    expected = torch.zeros(len(ids), CELLS)
    late = [(y, h) for y in range(len(bodies) // 2, len(bodies)) for h in range(config.heads)]
    with torch.no_grad():
        for layer, head in heads or late:
            values = text.projected.layers[layer][1][0]
            added = projected_values(bodies[layer], values, [head])[0]  # (S, D)
            attention = decoded.cross_attention[layer][0, head, rows]  # (T, S)
            expected += (attention * (towards @ added.T)).clamp(min=0)
    expected /= expected.sum(dim=1, keepdim=True)
    grid = memory.image.grid
    expected = smoothed(expected.unflatten(1, grid), torch.ones(grid)).flatten(1)
    said = METHODS["logit"].weigh(text, Choice(heads=heads))[0]
    actual = said.patches[len(text.prompt.ids) :].flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-3)


def test_a_smoothed_map_keeps_its_peak_and_sum_and_leaves_out_what_is_hidden():
    maps = torch.zeros(2, 16, 16)
    maps[0, 5, 9] = 0.5
    maps[1, 0, 15] = 1.0
    shown = torch.ones(16, 16)
    spread = smoothed(maps, shown)
    torch.testing.assert_close(spread.sum(dim=(1, 2)), torch.tensor([0.5, 1.0]))
    assert [int(m.argmax()) for m in spread] == [5 * 16 + 9, 15]
    assert float(spread[0, 5, 10] / spread[0, 5, 9]) == pytest.approx(np.exp(-0.5), abs=1e-4)
    shown[:, :8] = 0
    assert float(smoothed(torch.ones(1, 16, 16), shown)[0, :, :8].sum()) == 0


def test_logit_is_the_default_where_a_model_has_it(tiny, memory):
    text = text_about(tiny, memory, tuple(tiny.tokenizer.encode("a dog")))
    assert {word.method for word in word_maps(text)} == {"logit"}
    config = replace(tiny.model.config.decoder, head_transform=True)
    other = VisionLanguageModel(replace(tiny.model.config, decoder=config)).eval()
    text = replace(text, model=other)
    assert {word.method for word in word_maps(text)} == {"attention"}
    with pytest.raises(MethodError, match="attention is for all"):
        word_maps(text, "logit")


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


def odds(captioner, memory: Memory, text: str, own: str, other: str) -> float:
    """How much likelier a text goes on with one word than with another, in nats."""
    tokenizer = captioner.tokenizer
    prompt = caption_prompt(tokenizer).ids
    before = len(tokenizer.encode(text))
    each = []
    for word in (own, other):
        ids = tokenizer.encode(f"{text} {word}")
        each.append(logprobs(captioner, memory, prompt, ids)[before:].sum().item())
    return each[0] - each[1]


def test_a_contrast_is_what_hiding_does_to_the_odds(tiny, memory):
    tokenizer = tiny.tokenizer
    assert len(tokenizer.encode("dog")) == len(tokenizer.encode("man")) == 1
    text = text_about(tiny, memory, tuple(tokenizer.encode("a dog")))
    _, word = word_maps(text, "contrast", Choice(foil="man"))
    expected = torch.zeros(CELLS)
    for cell in range(CELLS):
        row, column = divmod(cell, GRID[1])
        near = [
            i
            for i in range(CELLS)
            if abs(i // GRID[1] - row) <= 1 and abs(i % GRID[1] - column) <= 1
        ]
        expected[cell] = odds(tiny, memory, "a", "dog", "man") - odds(
            tiny, without(memory, near), "a", "dog", "man"
        )
    expected = expected.clamp(min=0)
    torch.testing.assert_close(word.weights.flatten(), expected / expected.sum())


def test_what_speaks_for_a_word_speaks_against_its_foil(tiny, memory):
    """Turned round, what hiding took from the odds it gives to them: no patch has both."""
    dog, man = (
        word_maps(text_about(tiny, memory, tuple(tiny.tokenizer.encode(text))), "contrast", choice)
        for text, choice in (("a dog", Choice(foil="man")), ("a man", Choice(foil="dog")))
    )
    assert dog[1].mass > 0
    assert man[1].mass > 0
    assert (dog[1].weights * man[1].weights).sum() == 0


@pytest.mark.parametrize(
    ("word", "foil", "position", "own", "other"),
    [
        ("dog", "cat", 1, " dog", " cat"),
        ("dog", "dogx", 2, None, "x"),  # whatever follows, against going on
        ("dogx", "dog", 2, "x", None),
        ("dogx", "dogz", 2, "x", "z"),
    ],
)
def test_a_foil_is_met_where_the_two_words_part(tiny, memory, word, foil, position, own, other):
    tokenizer = tiny.tokenizer
    text = text_about(tiny, memory, tuple(tokenizer.encode(f"a {word}")))
    decision = decisions_of(text, foil)[1]
    assert decision.position == position
    for token, expected in ((decision.own, own), (decision.other, other)):
        spelled = None if token is None else tokenizer.backend.decode([token])
        assert (spelled and spelled.strip()) == (expected and expected.strip())


def test_odds_against_going_on_count_all_that_may_follow():
    logits = torch.tensor([[[1.0, 2.0, 0.5]]])
    chance = logits[0, 0].softmax(dim=0)[1].item()
    goes_on, ends = Decision(0, 1, None).odds(logits), Decision(0, None, 1).odds(logits)
    assert goes_on.item() == pytest.approx(math.log(chance / (1 - chance)), abs=1e-5)
    assert ends.item() == pytest.approx(-goes_on.item())


def test_a_word_that_is_the_foil_has_no_map(tiny, memory):
    text = text_about(tiny, memory, tuple(tiny.tokenizer.encode("a dog and a cat")))
    maps = word_maps(text, "contrast", Choice(foil="Dog."))
    assert [m.mass > 0 for m in maps if m.text != "a"] == [False, True, True]
    with pytest.raises(MethodError, match="the foil is empty"):
        word_maps(text, "contrast", Choice(foil=" ."))


@torch.inference_mode()
def test_without_a_foil_it_is_the_likeliest_other_token(tiny, memory):
    text = text_about(tiny, memory, tuple(tiny.tokenizer.encode("a dog")))
    prompt = caption_prompt(tiny.tokenizer).ids
    for position, decision in enumerate(decisions_of(text, None)):
        sequence = torch.tensor([[*prompt, *text.ids[:position]]])
        decoded = tiny.model.decoder(sequence, text.projected)
        ranked = tiny.model.decoder.logits(decoded.hidden[0, -1]).argsort(descending=True).tolist()
        ranked.remove(text.ids[position])
        assert decision == Decision(position, text.ids[position], ranked[0])


def test_an_echo_leaves_nothing_and_what_is_new_stays():
    others = torch.tensor([[3.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    torch.testing.assert_close(
        less_the_echo(2 * others[0], others, torch.tensor([1.0, 0.0])), torch.zeros(3)
    )
    own = torch.tensor([4.0, 2.0, 5.0])  # the echo of both, (2, 1, 0), twice, and something new
    left = less_the_echo(own, others, torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(left, torch.tensor([0.0, 0.0, 5.0]))
    torch.testing.assert_close(less_the_echo(own, others, torch.zeros(2)), own)


def test_only_earlier_words_explain_a_map_and_the_first_is_whole(tiny, memory):
    plain, short, long = (
        word_maps(text_about(tiny, memory, tuple(tiny.tokenizer.encode(text))), method)
        for text, method in (
            ("a dog", "attention"),
            ("a dog", "context"),
            ("a dog runs", "context"),
        )
    )
    torch.testing.assert_close(short[0].weights, plain[0].weights)
    assert not torch.allclose(short[1].weights, plain[1].weights, atol=1e-3)
    assert short[1].mass == pytest.approx(plain[1].mass)
    for before, after in zip(short, long):
        torch.testing.assert_close(before.weights, after.weights)


def by_hand(captioner, text: Finished) -> torch.Tensor:
    """Relevance of each slot to each token, `(T, S)`: Chefer's rules word by word, over a decoder written anew."""
    decoder = captioner.model.decoder
    heads = decoder.config.heads
    length = text.sequence.shape[1]

    def heads_of(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), heads, -1).transpose(0, 1)  # (H, T, D / H)

    x = decoder.token_embedding.weight[text.sequence[0]]
    x = x + decoder.position_embedding.weight[:length]
    kept = []
    for sublayer in decoder.sublayers:
        inside = sublayer.norm(x)
        if sublayer.kind == "m":
            x = x + sublayer.body(inside)
            continue
        source = inside if sublayer.kind == "s" else text.memory.tokens[0].clone()
        keys, values = sublayer.body.key_value(source).chunk(2, dim=-1)
        queries = heads_of(sublayer.body.query(inside))
        scores = queries @ heads_of(keys).transpose(1, 2) / queries.shape[-1] ** 0.5
        if sublayer.kind == "s":
            late = torch.ones(length, length).triu(1).bool()
            scores = scores.masked_fill(late, -1e9)
        attention = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        attention.retain_grad()
        kept.append((sublayer.kind, attention))
        x = x + sublayer.body.out((attention @ heads_of(values)).transpose(0, 1).flatten(1))
    logits = decoder.logits(decoder.final_norm(x))

    rows = []
    for i, token in enumerate(text.ids):
        row = length - len(text.ids) + i - 1
        for _, attention in kept:
            attention.grad = None
        logits[row, token].backward(retain_graph=True)
        itself = torch.eye(length)
        onto = torch.zeros(length, text.memory.tokens.shape[1])
        for kind, attention in kept:
            weights = torch.stack(
                [(a * g).clamp(min=0) for a, g in zip(attention.detach(), attention.grad)]
            ).mean(dim=0)
            if kind == "s":
                onto = onto + weights @ onto
                itself = itself + weights @ itself
                continue
            mixed = itself - torch.eye(length)
            sums = mixed.sum(dim=1, keepdim=True)
            mixed = torch.where(sums > 0, mixed / sums, 0) + torch.eye(length)
            onto = onto + mixed @ weights
        rows.append(onto[row] / onto[row].sum())
    return torch.stack(rows)


def test_relevance_is_what_the_papers_rules_give_by_hand(tiny, memory):
    text = text_about(tiny, memory, tuple(tiny.tokenizer.encode("a dog runs")))
    expected = by_hand(tiny, text)
    prompt = len(caption_prompt(tiny.tokenizer).ids)
    actual = METHODS["relevance"].weigh(text, Choice())[0].patches[prompt:].flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-3)
    assert all(weight.grad is None for weight in tiny.model.vision.parameters())


@torch.inference_mode()
def test_relevance_is_to_be_had_where_no_graph_is_kept(tiny):
    """As in a server: the image was encoded, and maps are asked for, in inference mode."""
    image = tiny.encode(torch.rand(60, 90, 3).mul(255).byte().numpy())
    maps = image.explain("yes", "is there a dog?").maps(method="relevance")
    assert [m.role for m in maps] == ["question"] * 5 + ["answer"]
    assert all(m.mass == pytest.approx(1, abs=1e-5) for m in maps)
    assert max(m.weights.std() for m in maps) > 0


def test_relevance_against_a_foil_is_another(tiny, memory):
    text = text_about(tiny, memory, tuple(tiny.tokenizer.encode("a dog")))
    plain, foiled, same = (
        word_maps(text, "relevance", Choice(foil=foil))[1] for foil in (None, "cat", "dog")
    )
    assert not torch.allclose(plain.weights, foiled.weights, atol=1e-3)
    assert same.mass == 0


@pytest.fixture(scope="module")
def with_vit(tiny) -> Captioner:
    """A captioner whose encoder is a ViT with a class token, which its memory keeps."""
    config = replace(
        tiny.model.config,
        vision=VisionConfig("test_vit", default_preprocess("test_vit", (96, 96)), prefix=True),
        adapter=AdapterConfig("linear"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionLanguageModel(config)
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return Captioner(model, tiny.tokenizer)


def test_relevance_goes_back_through_a_vit(with_vit):
    """By hand through timm's own unfused attention: each of its layers adds what it mixed."""
    image = with_vit.encode(torch.rand(96, 96, 3).mul(255).byte().numpy())
    answer = image.explain("dog")
    (word,) = answer.maps(method="relevance")

    model = with_vit.model
    kept = []
    blocks = model.vision.trunk.blocks
    hooks = []
    for block in blocks:
        block.attn.fused_attn = False
        hooks.append(block.attn.attn_drop.register_forward_hook(lambda *a: kept.append(a[2])))
    memory = model.encode(with_vit.preprocess(image.picture)[0][None])
    for block, hook in zip(blocks, hooks):
        block.attn.fused_attn = True
        hook.remove()
    prompt = caption_prompt(with_vit.tokenizer).ids
    with Watched() as watched:  # of a decoder it is checked above
        decoded = model.decoder(torch.tensor([prompt]), model.project(memory))
    logit = model.decoder.logits(decoded.hidden[0, -1])[answer.ids[0]]
    attention = [*kept, *watched.probabilities]
    gradients = torch.autograd.grad(logit, attention)
    weighed = [(a * g).clamp(min=0).mean(dim=1)[0] for a, g in zip(attention, gradients)]
    tokens = 1 + word.weights.numel()
    mixed = torch.zeros(tokens, tokens)
    for layer in weighed[: len(kept)]:
        mixed = mixed + layer + layer @ mixed
    back = mixed / mixed.sum(dim=1, keepdim=True) + torch.eye(tokens)
    onto = relevance_of_slots("scsc", weighed[len(kept) :])[-1] @ back
    onto = (onto / onto.sum()).detach()
    assert word.elsewhere["class"] == pytest.approx(onto[0].item(), abs=1e-4)
    torch.testing.assert_close(
        word.weights.flatten(), onto[1:] / onto[1:].sum(), atol=1e-4, rtol=1e-3
    )


def test_a_runtime_without_gradients_says_so(tiny):
    image = Captioner(packed(tiny.model), tiny.tokenizer).encode(
        torch.rand(60, 90, 3).mul(255).byte().numpy()
    )
    with pytest.raises(MethodError, match="gradients=True"):
        image.explain("a dog").maps(method="relevance")

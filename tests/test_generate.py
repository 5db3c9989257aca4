from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.generate import generate, stream
from vlm.model.config import DecoderConfig
from vlm.model.decoder import Decoder
from vlm.model.memory import image_memory
from vlm.nudges import Nudge
from vlm.options import OptionError, Options

PAD, END, START = 0, 1, 2


def make(vocab_size: int = 30, seed: int = 0) -> Decoder:
    torch.manual_seed(seed)
    config = DecoderConfig(vocab_size, width=16, depth=2, heads=2, max_length=20, memory_width=16)
    decoder = Decoder(config).eval()
    for weight in decoder.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.5)
    return decoder


def project(decoder: Decoder, images: int = 1, seed: int = 1):
    torch.manual_seed(seed)
    return decoder.project(image_memory(torch.randn(images, 4, 16) * 2, (2, 2)))


def run(decoder, projected, prompts, **options):
    return generate(decoder, projected, prompts, END, PAD, Options(**options))


def logprob(decoder: Decoder, projected, prompt, ids) -> float:
    """Of a text, by one teacher-forced pass."""
    sequence = torch.tensor([[*prompt, *ids]])
    hidden = decoder(sequence[:, :-1], projected).hidden[0, len(prompt) - 1 :]
    scores = decoder.logits(hidden).log_softmax(-1)
    return scores.gather(1, torch.tensor(ids)[:, None]).sum().item()


def test_greedy_takes_the_best_token_at_every_step():
    decoder = make()
    projected = project(decoder)
    result = run(decoder, projected, [[START]], max_tokens=8)[0][0]
    sequence = [START]
    for token in result.ids:
        hidden = decoder(torch.tensor([sequence]), projected).hidden[:, -1]
        assert decoder.logits(hidden).argmax().item() == token
        sequence.append(token)


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_of_the_beam_search_equals_greedy(seed):
    """`beams=1` takes the greedy path; this runs the beam search itself with a single beam."""
    from vlm.generate import _beam

    decoder = make(seed=seed)
    projected = project(decoder, 2)
    options = Options(max_tokens=8)
    with torch.inference_mode():
        prompts = [[START], [START]]
        *_, beam = _beam(decoder, projected, prompts, END, PAD, options, 1.0, [Nudge()] * 2)
    greedy = generate(decoder, projected, [[START], [START]], END, PAD, options)
    assert [h[0].ids for h in beam] == [h[0].ids for h in greedy]
    assert beam[0][0].score == pytest.approx(greedy[0][0].score, abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_equals_brute_force(seed, penalty):
    decoder = make(vocab_size=5, seed=seed)
    projected = project(decoder)
    length = 3
    best = run(
        decoder, projected, [[START]], beams=5**length, max_tokens=length, length_penalty=penalty
    )[0][0]
    scored = {}
    for size in range(1, length + 1):
        for ids in itertools.product(range(5), repeat=size):
            ended = ids[-1] == END
            if END in ids[:-1] or (not ended and size < length):
                continue
            scored[ids] = logprob(decoder, projected, [START], ids) / size**penalty
    expected = max(scored, key=scored.__getitem__)
    assert (*best.ids, END) == expected if best.finished else best.ids == expected
    assert best.score == pytest.approx(scored[expected], abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    beams=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_batch_equals_single(lengths, beams, seed):
    """Prompts of mixed lengths over several images, with and without beams."""
    decoder = make(seed=seed)
    torch.manual_seed(seed)
    memory = image_memory(torch.randn(len(lengths), 4, 16) * 2, (2, 2))
    prompts = [torch.randint(3, 30, (length,)).tolist() for length in lengths]
    options = {"beams": beams, "max_tokens": 6}
    together = run(decoder, decoder.project(memory), prompts, **options)
    for image, prompt in enumerate(prompts):
        alone = run(decoder, decoder.project(memory.select([image])), [prompt], **options)[0]
        assert alone[0].ids == together[image][0].ids
        assert alone[0].logprobs == pytest.approx(together[image][0].logprobs, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_questions_of_one_image_share_it(beams):
    decoder = make()
    projected = project(decoder, 2)
    prompts = [[START, 5, 6], [START], [START, 7], [START, 8, 9, 10]]  # two an image
    together = run(decoder, projected, prompts, beams=beams, max_tokens=5)
    for i, prompt in enumerate(prompts):
        one = projected.select(torch.tensor([i // 2]))
        alone = run(decoder, one, [prompt], beams=beams, max_tokens=5)[0]
        assert alone[0].ids == together[i][0].ids


def test_logprobs_are_the_models_own():
    decoder = make()
    projected = project(decoder)
    options = {"max_tokens": 6, "candidates": 3}
    for hypothesis in [
        *run(decoder, projected, [[START]], beams=3, **options)[0],
        *run(decoder, projected, [[START]], sample=True, temperature=2.0, seed=1, **options)[0],
    ]:
        ids = [*hypothesis.ids, END] if hypothesis.finished else list(hypothesis.ids)
        expected = logprob(decoder, projected, [START], ids)
        assert sum(hypothesis.logprobs) == pytest.approx(expected, abs=1e-4)


def test_candidates_are_distinct_and_ranked():
    decoder = make()
    hypotheses = run(decoder, project(decoder), [[START]], beams=6, candidates=6, max_tokens=5)[0]
    assert len({h.ids for h in hypotheses}) == 6
    assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


def test_streaming_shows_what_greedy_writes():
    decoder = make()
    projected = project(decoder)
    steps = list(stream(decoder, projected, [[START]], END, PAD, Options(max_tokens=6)))
    final = steps[-1][0][0]
    for step in steps:
        assert final.ids[: len(step[0][0].ids)] == step[0][0].ids
    assert final == run(decoder, projected, [[START]], max_tokens=6)[0][0]


def test_interleaved_streams_do_not_mix():
    decoder = make()
    first, second = project(decoder, seed=1), project(decoder, seed=2)
    for options in (Options(max_tokens=6), Options(beams=3, max_tokens=6)):
        serial = [list(stream(decoder, p, [[START]], END, PAD, options)) for p in (first, second)]
        one = stream(decoder, first, [[START]], END, PAD, options)
        two = stream(decoder, second, [[START]], END, PAD, options)
        mixed = ([], [])
        for a, b in itertools.zip_longest(one, two):
            mixed[0].extend([a] if a is not None else [])
            mixed[1].extend([b] if b is not None else [])
        assert list(mixed) == serial


def test_streaming_leaves_the_callers_gradient_mode_alone():
    decoder = make()
    for _ in stream(decoder, project(decoder), [[START]], END, PAD, Options(max_tokens=3)):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


def test_a_seed_repeats_and_another_differs():
    decoder = make()
    projected = project(decoder)
    options = {"sample": True, "temperature": 3.0, "candidates": 4, "max_tokens": 8}
    one = run(decoder, projected, [[START]], seed=1, **options)
    assert one == run(decoder, projected, [[START]], seed=1, **options)
    assert one != run(decoder, projected, [[START]], seed=2, **options)


@pytest.mark.parametrize("choice", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_sampling_narrowed_to_one_token_is_greedy(choice):
    decoder = make()
    projected = project(decoder)
    sampled = run(decoder, projected, [[START]], sample=True, seed=3, max_tokens=6, **choice)
    assert sampled[0][0].ids == run(decoder, projected, [[START]], max_tokens=6)[0][0].ids


def test_sampling_follows_the_distribution():
    decoder = make(vocab_size=6)
    projected = project(decoder)
    hidden = decoder(torch.tensor([[START]]), projected).hidden[:, -1]
    expected = decoder.logits(hidden).softmax(-1)[0]
    draws = run(decoder, projected, [[START]], sample=True, candidates=3000, max_tokens=1, seed=0)[
        0
    ]
    tokens = torch.tensor([h.ids[0] if h.ids else END for h in draws])
    actual = tokens.bincount(minlength=6) / len(draws)
    torch.testing.assert_close(actual, expected, atol=0.04, rtol=0)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_occurs_twice(beams, size):
    decoder = make(vocab_size=12)
    options = {"no_repeat_ngram": size, "max_tokens": 10, "min_tokens": 10, "beams": beams}
    ids = run(decoder, project(decoder), [[START]], **options)[0][0].ids
    ngrams = [ids[i : i + size] for i in range(len(ids) - size + 1)]
    assert len(ngrams) == len(set(ngrams))


def test_repetition_penalty_makes_used_tokens_rarer():
    decoder = make(vocab_size=12)
    options = {"max_tokens": 12, "min_tokens": 12}
    plain = run(decoder, project(decoder), [[START]], **options)[0][0].ids
    varied = run(decoder, project(decoder), [[START]], repetition_penalty=50.0, **options)[0][0].ids
    assert len(set(varied)) > len(set(plain))


@pytest.mark.parametrize("beams", [1, 4])
def test_length_limits_hold(beams):
    decoder = make(vocab_size=6)
    options = {"beams": beams, "min_tokens": 4, "max_tokens": 5}
    hypothesis = run(decoder, project(decoder), [[START]], **options)[0][0]
    assert 4 <= len(hypothesis.ids) <= 5


def test_a_prompt_without_room_is_refused():
    decoder = make()
    with pytest.raises(ValueError, match="too long: 20 tokens"):
        run(decoder, project(decoder), [[START] * 20])
    assert len(run(decoder, project(decoder), [[START] * 19])[0][0].logprobs) == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beams": 0}, "beams"),
        ({"candidates": 2}, "candidates"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 40}, "min_tokens"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"sample": True, "beams": 2}, "sampling"),
        ({"beams": "3"}, "beams"),
        ({"beams": 2.5}, "beams"),
        ({"seed": 1.5}, "seed"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"length_penalty": 2000.0}, "length_penalty"),
        ({"temperature": 0.5}, "for sampling"),
        ({"top_p": 0.5}, "for sampling"),
        ({"top_k": 5}, "for sampling"),
    ],
)
def test_impossible_options_are_named(options, named):
    with pytest.raises(OptionError, match=named):
        Options(**options)


@pytest.mark.parametrize("seed", [0, 20241124, 2**62, -1])
def test_each_prompt_may_have_a_seed_of_its_own(seed):
    """Prompts of the same image that share one are sampled alike."""
    decoder = make()
    options = Options(sample=True, temperature=3.0, max_tokens=8, seed=seed)
    prompts = [[START]] * 2
    shared = generate(decoder, project(decoder), prompts, END, PAD, options)
    assert shared[0][0].ids == shared[1][0].ids
    own = generate(decoder, project(decoder), prompts, END, PAD, options, [seed, 3])
    assert own[0][0].ids == shared[0][0].ids
    assert own[1][0].ids != own[0][0].ids


@pytest.mark.parametrize(
    "options",
    [
        Options(max_tokens=9, min_tokens=5),
        Options(beams=3, candidates=3, max_tokens=9, min_tokens=5),
        Options(sample=True, candidates=2, temperature=3.0, max_tokens=9, min_tokens=5, seed=1),
    ],
)
@pytest.mark.parametrize("images", [2, 4])
def test_a_prompt_that_is_not_wanted_leaves_the_batch_and_the_others_do_not_notice(
    options, images, monkeypatch
):
    decoder = make()
    projected = project(decoder, images)
    prompts = [[START], [START, 5, 6], [START, 7], [START, 8]]  # one or two an image
    alone = generate(decoder, projected, prompts, END, PAD, options)
    rows = []
    forward = decoder.forward

    def counted(ids, *rest, **named):
        rows.append(len(ids))
        return forward(ids, *rest, **named)

    monkeypatch.setattr(decoder, "forward", counted)
    seen = []
    leaving = {0: 2, 2: 4}  # after how many tokens

    def wanted(prompt):
        return len(seen) < leaving.get(prompt, 100)

    for step in stream(decoder, projected, prompts, END, PAD, options, wanted=wanted):
        seen.append(step)
    each = max(options.beams, options.candidates)
    assert [count // each for count in rows[1:5]] == [4, 3, 3, 2]
    for prompt in (1, 3):
        assert [h.ids for h in seen[-1][prompt]] == [h.ids for h in alone[prompt]]
        scores = [h.score for h in seen[-1][prompt]]
        assert scores == pytest.approx([h.score for h in alone[prompt]], abs=1e-5)
    assert seen[-1][0] == seen[1][0]


@pytest.mark.parametrize(
    "options",
    [{}, {"beams": 3}, {"sample": True, "seed": 1}, {"sample": True, "seed": 1, "candidates": 2}],
)
def test_prompts_that_are_done_leave_the_batch_and_the_others_do_not_notice(options, monkeypatch):
    decoder = make()
    projected = project(decoder, 8)
    logits, forward, rows = decoder.logits, decoder.forward, []

    def eager(hidden):  # to end, or no text of random weights does
        return logits(hidden) + 2.5 * torch.eye(logits(hidden).shape[-1])[END]

    def counted(ids, *rest, **named):
        rows.append(len(ids))
        return forward(ids, *rest, **named)

    monkeypatch.setattr(decoder, "logits", eager)
    options = Options(max_tokens=24, **options)
    prompts = [[START, 5 + number] for number in range(8)]
    alone = [
        generate(decoder, projected.select(torch.tensor([i])), [prompts[i]], END, PAD, options)[0]
        for i in range(8)
    ]
    monkeypatch.setattr(decoder, "forward", counted)
    together = generate(decoder, projected, prompts, END, PAD, options)
    lengths = [max(len(h.ids) for h in found) for found in alone]
    assert len(set(lengths)) > 2, "they end at different lengths"
    assert rows[0] == 8
    assert rows[-1] <= 6 * max(options.beams, options.candidates)
    for ours, expected in zip(together, alone, strict=True):
        assert [h.ids for h in ours] == [h.ids for h in expected]
        assert [h.score for h in ours] == pytest.approx([h.score for h in expected], abs=1e-5)


def test_a_search_that_nobody_wants_ends():
    decoder = make()
    steps = stream(
        decoder, project(decoder), [[START]], END, PAD, Options(), wanted=lambda prompt: False
    )
    assert len(list(steps)) == 1


@pytest.mark.parametrize(
    "options", [{}, {"beams": 3, "candidates": 3}, {"sample": True, "seed": 1}]
)
def test_calibration_changes_probabilities_and_no_word(options):
    decoder = make()
    projected = project(decoder)
    options = Options(max_tokens=6, **options)
    own = generate(decoder, projected, [[START]], END, PAD, options)[0]
    flat = generate(decoder, projected, [[START]], END, PAD, options, calibration=4.0)[0]
    assert [h.ids for h in own] == [h.ids for h in flat]
    assert [h.score for h in own] == pytest.approx([h.score for h in flat], abs=1e-6)
    for hypothesis in flat:
        ids = [*hypothesis.ids, END] if hypothesis.finished else list(hypothesis.ids)
        hidden = decoder(torch.tensor([[START, *ids]])[:, :-1], projected).hidden[0]
        expected = (decoder.logits(hidden) / 4).log_softmax(-1)
        chosen = expected.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()
        assert list(hypothesis.logprobs) == pytest.approx(chosen, abs=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_nudge_has_a_phrase_said_once_and_leaves_the_other_prompt_alone(beams):
    decoder = make()
    projected = project(decoder, 2)
    options = Options(beams=beams, max_tokens=12)
    plain = generate(decoder, projected, [[START]] * 2, END, PAD, options)
    phrase = (17, 23, 11)
    assert not any(token in phrase for (best, *_) in plain for token in best.ids)
    nudges = [Nudge(), Nudge((phrase,), 50.0)]
    nudged = generate(decoder, projected, [[START]] * 2, END, PAD, options, nudges=nudges)
    assert nudged[0][0].ids == plain[0][0].ids
    said = nudged[1][0]
    assert said.ids[:3] == phrase
    assert said.ids[3:].count(phrase[0]) == plain[1][0].ids.count(phrase[0])
    own = logprob(decoder, projected.select(torch.tensor([1])), [START], [*said.ids, END])
    if said.finished:  # what is told is what the model thinks, not what it was nudged to
        assert sum(said.logprobs) == pytest.approx(own, abs=1e-4)


def test_a_small_nudge_decides_between_words_that_are_nearly_alike():
    decoder = make()
    projected = project(decoder)
    options = Options(max_tokens=1)
    logits = decoder.logits(decoder(torch.tensor([[START]]), projected).hidden[0, -1])
    best, second = logits.topk(2).indices.tolist()
    gap = (logits[best] - logits[second]).item()
    for nats, expected in ((gap - 0.01, best), (gap + 0.01, second)):
        nudges = [Nudge(((second,),), nats)]
        ((said,),) = generate(decoder, projected, [[START]], END, PAD, options, nudges=nudges)
        assert said.ids == (expected,)

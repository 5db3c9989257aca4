"""One model for many people: nothing mixes, nobody waits for another's list, and what nobody wants ends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from vlm.answers import Answer
from vlm.captioner import BATCH, Captioner
from vlm.encoded_image import EncodedImage
from vlm.engine import LINE_SECONDS, Cancelled, Engine
from vlm.model.decoder import Projected
from vlm.model.model import VisionLanguageModel
from vlm.options import OptionError
from vlm.prompts import QuestionError

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "assets" / "examples").glob("*.jpg"))
QUESTIONS = ["is there a dog?", "how many people are there in the picture?", "what colour is it?"]


@pytest.fixture(scope="module")
def images(tiny: Captioner) -> list[EncodedImage]:
    images = tiny.encode_all(EXAMPLES)
    assert len({image.caption().text for image in images}) == len(images)
    return images


@pytest.fixture
def engine(tiny: Captioner) -> Iterator[Engine]:
    with Engine(tiny) as engine:
        yield engine


class Passes:
    """The decoder's passes: how many rows each has; `on` is called before each."""

    def __init__(self, captioner: Captioner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.on: Callable[[], None] = lambda: None
        forward = captioner.model.decoder.forward

        def counted(ids: torch.Tensor, *rest: object, **named: object) -> object:
            self.rows.append(len(ids))
            self.on()
            return forward(ids, *rest, **named)

        monkeypatch.setattr(captioner.model.decoder, "forward", counted)


@pytest.fixture
def passes(tiny: Captioner, monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(tiny, monkeypatch)


@pytest.fixture
def busy(engine: Engine) -> Iterator[threading.Event]:
    """Keeps the engine until it is set, so that requests wait together."""
    begun, free = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        free.wait(60)

    engine.call("someone else", wait)
    assert begun.wait(60)
    yield free
    free.set()


def assert_same(answer: Answer, alone: Answer) -> None:
    assert answer.text == alone.text
    assert answer.ids == alone.ids
    assert answer.question == alone.question
    assert answer.score == pytest.approx(alone.score, abs=1e-4)
    assert [o.text for o in answer.alternatives] == [o.text for o in alone.alternatives]
    assert [w.logprob for w in answer.words] == pytest.approx(
        [w.logprob for w in alone.words], abs=1e-4
    )


def test_a_batch_gives_what_single_requests_give(
    engine: Engine, images: list[EncodedImage], busy: threading.Event, passes: Passes
) -> None:
    captions = [engine.caption(i, image) for i, image in enumerate(images)]
    asked = [(image, question) for question in QUESTIONS for image in images[:2]]
    answers = [engine.ask(i, image, question) for i, (image, question) in enumerate(asked)]
    busy.set()
    found = [job.result(60) for job in captions + answers]
    together = len(passes.rows)
    alone = [image.caption() for image in images]
    alone += [image.ask(question) for image, question in asked]
    for answer, expected in zip(found, alone, strict=True):
        assert_same(answer, expected)
    assert together < (len(passes.rows) - together) / 3


@pytest.mark.parametrize("options", [{"beams": 1}, {"sample": True, "seed": 3, "candidates": 2}])
def test_only_requests_with_the_same_options_share_a_batch(
    engine: Engine, images: list[EncodedImage], busy: threading.Event, options: dict[str, object]
) -> None:
    jobs = [engine.caption("a", images[0], **options), engine.caption("b", images[1])]
    jobs += [engine.caption("c", images[2], **options)]
    busy.set()
    expected = [images[0].caption(**options), images[1].caption(), images[2].caption(**options)]
    for job, alone in zip(jobs, expected):
        assert_same(job.result(60), alone)


def test_a_long_question_takes_no_room_from_those_beside_it(
    engine: Engine, images: list[EncodedImage], busy: threading.Event
) -> None:
    long = " ".join(["is there a dog in the picture"] * 5) + "?"
    jobs = [engine.ask(i, images[0], question) for i, question in enumerate([long, *QUESTIONS])]
    busy.set()
    for job, question in zip(jobs, [long, *QUESTIONS]):
        assert_same(job.result(60), images[0].ask(question))


def test_questions_that_a_reader_reads_share_a_batch(tiny: Captioner) -> None:
    """What the decoder attends to is as long as the question, then."""
    config = tiny.model.config
    with torch.random.fork_rng():
        torch.manual_seed(1)
        reading = replace(config, reader=replace(config.decoder, causal=False))
        captioner = Captioner(VisionLanguageModel(reading), tiny.tokenizer)
        for weight in captioner.model.decoder.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    images = captioner.encode_all(EXAMPLES[:2])
    asked = [(image, question) for question in QUESTIONS for image in images]
    with Engine(captioner) as engine:
        free = threading.Event()
        engine.call("someone else", lambda: free.wait(60))
        jobs = [engine.ask(i, image, question) for i, (image, question) in enumerate(asked)]
        free.set()
        for job, (image, question) in zip(jobs, asked):
            assert_same(job.result(60), image.ask(question))


def test_many_pages_at_once_never_mix(engine: Engine, images: list[EncodedImage]) -> None:
    alone = {}
    for image in images:
        alone[image] = [image.caption(), *(image.ask(question) for question in QUESTIONS)]
    maps = {image: [answer.maps() for answer in answers] for image, answers in alone.items()}

    def visit(number: int) -> None:
        source = number % len(images)
        page = object()
        image = engine.call(page, lambda: engine.captioner.encode(EXAMPLES[source])).result(60)
        caption = engine.caption(page, image)
        shown = list(caption)
        answers = [caption.result(60)]
        assert all(answers[0].words[: len(words)] == words for words in shown)
        answers += [engine.ask(page, image, question).result(60) for question in QUESTIONS]
        expected = alone[images[source]]
        for answer, other, weights in zip(answers, expected, maps[images[source]], strict=True):
            assert_same(answer, other)
            found = engine.call(page, answer.maps).result(60)
            assert [m.text for m in found] == [m.text for m in weights]
            for mine, theirs in zip(found, weights):
                np.testing.assert_allclose(mine.weights, theirs.weights, atol=1e-4)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(visit, range(36)))


def test_words_come_while_the_search_runs_and_none_is_taken_back(
    engine: Engine, images: list[EncodedImage], passes: Passes
) -> None:
    at = []
    job = engine.caption("page", images[0], beams=1)
    for words in job:
        at.append((len(passes.rows), words))
    answer = job.result()
    assert len(at) > 3
    assert at[0][0] < len(passes.rows)
    for (_, before), (_, after) in zip(at, [*at[1:], (0, answer.words)]):
        assert after[: len(before)] == before
    assert len(passes.rows) == len(answer.ids) + answer.finished


def test_a_request_that_is_taken_back_ends_within_a_token(
    engine: Engine, images: list[EncodedImage], passes: Passes
) -> None:
    jobs = []
    counted = []

    def third_pass() -> None:
        if len(passes.rows) == 3:
            jobs[0].cancel()
            counted.append(len(passes.rows))

    started = threading.Event()
    passes.on = lambda: (started.wait(60), third_pass())
    jobs.append(engine.caption("page", images[0], min_tokens=20))
    started.set()
    with pytest.raises(Cancelled):
        jobs[0].result(60)
    with pytest.raises(Cancelled):
        list(jobs[0])
    engine.call("page", lambda: None).result(60)
    assert counted == [3]
    assert len(passes.rows) == 3


def test_a_row_that_is_taken_back_leaves_its_batch(
    engine: Engine, images: list[EncodedImage], busy: threading.Event, passes: Passes
) -> None:
    jobs = [engine.caption(i, image, beams=1, min_tokens=20) for i, image in enumerate(images[:4])]
    passes.on = lambda: engine.cancel(2) if len(passes.rows) == 5 else None
    busy.set()
    with pytest.raises(Cancelled):
        jobs[2].result(60)
    others = [jobs[i].result(60) for i in (0, 1, 3)]
    assert passes.rows[:7] == [4] * 5 + [3] * 2
    for i, answer in zip((0, 1, 3), others):
        assert_same(answer, images[i].caption(beams=1, min_tokens=20))


def test_cancelling_an_owner_takes_back_all_of_its_requests_and_no_others(
    engine: Engine, images: list[EncodedImage], busy: threading.Event, passes: Passes
) -> None:
    mine = [engine.caption("mine", image) for image in images]
    other = engine.ask("other", images[0], QUESTIONS[0])
    engine.cancel("mine")
    engine.cancel("nobody")
    busy.set()
    assert other.result(60).text == images[0].ask(QUESTIONS[0]).text
    for job in mine:
        with pytest.raises(Cancelled):
            job.result(60)
    assert set(passes.rows) <= {1, 5}  # the question's prompt, and its beams


def test_nobody_waits_for_anothers_long_list(engine: Engine, busy: threading.Event) -> None:
    order: list[str] = []
    long = [engine.call("long", lambda: order.append("long")) for _ in range(20)]
    short = [engine.call("short", lambda: order.append("short")) for _ in range(2)]
    late = engine.call("late", lambda: order.append("late"))
    busy.set()
    for job in [*long, *short, late]:
        job.result(60)
    assert order == ["long", "short", "late", "long", "short"] + ["long"] * 18


def test_who_waits_is_told_how_many_come_before(engine: Engine, busy: threading.Event) -> None:
    gates = [threading.Event() for _ in range(3)]
    for owner, gate in enumerate(gates):
        engine.call(owner, lambda gate=gate: gate.wait(60))
        engine.call(owner, int)  # a second request of the same person comes after everybody's first
    mine = engine.call("me", int)
    line = engine.line(mine)
    assert next(line) == 4
    for free, left in zip((busy, *gates), (3, 2, 1, None)):
        free.set()
        assert next(line, None) == left
    assert list(engine.line(mine)) == []


def test_a_place_in_line_moves_up_when_someone_leaves(
    engine: Engine, busy: threading.Event
) -> None:
    for owner in ("one", "two"):
        engine.call(owner, int)
    line = engine.line(engine.call("me", int))
    assert next(line) == 3
    engine.cancel("one")
    assert next(line) == 2


def test_who_is_alone_waits_for_no_line(engine: Engine) -> None:
    release = threading.Event()
    mine = engine.call("me", partial(release.wait, 60))
    start = time.perf_counter()
    line = list(engine.line(mine))
    took = time.perf_counter() - start
    release.set()
    assert line == []
    assert took < LINE_SECONDS / 2


def test_a_batch_is_shared_among_owners(
    engine: Engine, images: list[EncodedImage], busy: threading.Event
) -> None:
    finished: list[str] = []
    jobs = []
    for owner, count in (("long", 3 * BATCH), ("short", 2)):
        for _ in range(count):
            job = engine.caption(owner, images[0])
            job.future.add_done_callback(lambda _, owner=owner: finished.append(owner))
            jobs.append(job)
    busy.set()
    for job in jobs:
        job.result(60)
    assert finished[:BATCH].count("short") == 2


def test_the_requests_of_one_owner_run_in_their_order(
    engine: Engine, busy: threading.Event
) -> None:
    order: list[int] = []
    jobs = [engine.call("page", lambda i=i: order.append(i)) for i in range(20)]
    busy.set()
    for job in jobs:
        job.result(60)
    assert order == list(range(20))


def test_what_cannot_be_asked_is_refused_at_once(
    engine: Engine, images: list[EncodedImage]
) -> None:
    with pytest.raises(QuestionError, match="empty"):
        engine.ask("page", images[0], " ")
    with pytest.raises(OptionError, match="beams"):
        engine.caption("page", images[0], beams=0)


def test_an_error_belongs_to_its_request_alone(
    engine: Engine, images: list[EncodedImage], busy: threading.Event
) -> None:
    broken = images[1].projected
    layers = tuple((keys[..., :1], values) for keys, values in broken.layers)
    damaged = replace(images[1], projected=Projected(layers, broken.mask))
    jobs = [engine.caption(i, image) for i, image in enumerate([images[0], damaged, images[2]])]
    wrong = engine.call("page", lambda: 1 / 0)
    busy.set()
    assert_same(jobs[0].result(60), images[0].caption())
    assert_same(jobs[2].result(60), images[2].caption())
    with pytest.raises(RuntimeError, match="size"):
        jobs[1].result(60)
    with pytest.raises(RuntimeError, match="size"):
        list(jobs[1])
    with pytest.raises(ZeroDivisionError):
        wrong.result(60)
    assert engine.call("page", lambda: "goes on").result(60) == "goes on"


def test_closing_ends_the_thread_and_what_waits(
    tiny: Captioner, images: list[EncodedImage]
) -> None:
    before = threading.active_count()
    engine = Engine(tiny)
    begun = threading.Event()
    running = engine.call("page", begun.set)
    assert begun.wait(60)
    waiting = [engine.caption("page", image, min_tokens=30) for image in images]
    engine.close()
    assert threading.active_count() == before
    running.result(60)
    for job in waiting:
        with pytest.raises(Cancelled):
            job.result(0)
    with pytest.raises(RuntimeError, match="closed"):
        engine.caption("page", images[0])
    engine.close()


def test_a_server_can_await_a_job_and_leave_it(engine: Engine, images: list[EncodedImage]) -> None:
    async def serve() -> str:
        job = engine.caption("client", images[0])
        return (await asyncio.wrap_future(job.future)).text

    async def leave() -> bool:
        block = threading.Event()
        engine.call("other", lambda: block.wait(60))
        job = engine.caption("client", images[0])
        waiting = asyncio.ensure_future(asyncio.wrap_future(job.future))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0.01)
        block.set()
        return job.future.cancelled()

    assert asyncio.run(serve()) == images[0].caption().text
    assert asyncio.run(leave())

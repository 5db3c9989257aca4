"""One model for many people: their requests wait in turn, run together where they are alike, and can be taken back."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

from vlm.answering import found, progress, sure_text
from vlm.answers import Answer, Word
from vlm.captioner import Captioner
from vlm.encoded_image import EncodedImage, Took
from vlm.errors import UserError
from vlm.generate import Hypothesis
from vlm.images import ImageError
from vlm.model.decoder import Projected
from vlm.options import CAPTION, Options, choose
from vlm.tokenizer import Tokenizer
from vlm.trace import Tracer

T = TypeVar("T")

TURN = 8  # requests, or photos of one request, at a time: more would keep those who wait from a first word
LINE_SECONDS = 1.0  # between two looks at a line in which nobody moves up

Cancelled = CancelledError
"""A request was taken back before it was done."""


@dataclass(frozen=True, eq=False)
class Search:
    """A caption of an image (`question` None), or the answer to a question about it."""

    image: EncodedImage
    question: str | None
    options: Options

    def ready(self) -> Search:
        """The same as it is decoded: the image as the model sees it when it is asked, the question as it is read."""
        if self.question is None:
            return self
        image = self.image.asked(self.question)
        return replace(self, image=image, question=image.read_as(self.question))


class Job(Generic[T]):
    """A request that waits, runs or is done. `future` has its result, for `asyncio.wrap_future` and callbacks."""

    def __init__(
        self,
        owner: Hashable,
        work: Search | Callable[[], T],
        kind: Hashable | None,
        tokenizer: Tokenizer,
    ) -> None:
        self.owner = owner
        self.work = work
        self.kind = kind  # what the requests of one batch have in common; None for what runs alone
        self.future: Future[T] = Future()
        self.asked = time.perf_counter()
        self._tokenizer = tokenizer
        self._hypotheses: Sequence[Hypothesis] = ()
        self._changed = threading.Condition()
        self._on_news: Callable[[], object] = lambda: None
        self.future.add_done_callback(lambda _: self._wake())

    def __iter__(self) -> Iterator[tuple[Word, ...]]:
        """All words that a search is sure to keep, whenever there are more, until it is done; raises as `result`."""
        seen: Sequence[Hypothesis] = ()
        shown = 0

        def news() -> bool:
            return self._hypotheses is not seen or self.done

        while not self.done:
            with self._changed:
                self._changed.wait_for(news)
                seen = self._hypotheses
            words = progress(self._tokenizer, seen).words if seen else ()
            if len(words) > shown:
                shown = len(words)
                yield words
        self.result()

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result. Raises the request's own error, Cancelled, or TimeoutError after `timeout` seconds."""
        return self.future.result(timeout)

    def cancel(self) -> None:
        """Take the request back: at once where it waits, between two tokens where it runs."""
        self.future.cancel()

    def watch(self, on_news: Callable[[], object]) -> None:
        """Have `on_news` called, from the engine's thread, after each token and at the end; it must be quick."""
        self._on_news = on_news
        self.future.add_done_callback(lambda _: on_news())

    @property
    def text(self) -> str:
        """What a search will say at least, for who watches it; the result's text begins with it."""
        seen = self._hypotheses
        return sure_text(self._tokenizer, seen) if seen else ""

    @property
    def done(self) -> bool:
        """Whether there is a result, an error or a cancellation."""
        return self.future.done()

    def advance(self, hypotheses: Sequence[Hypothesis]) -> None:
        """Take what a search has after one more token."""
        with self._changed:
            self._hypotheses = hypotheses
            self._changed.notify_all()
        self._on_news()

    def finish(self, result: T) -> None:
        with suppress(InvalidStateError):  # cancelled just now
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.future.set_exception(error)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Engine:
    """Runs one captioner, on the device that it is on, for many owners, in a thread of its own.

    An owner is whoever asks, such as a page or a client: any hashable value. An owner's requests run in their order;
    owners take turns, so that nobody waits for another's long list. Searches that wait together run in one batch where
    they have the same options and all are captions or all are answers, and give what they give alone. Close it, or use
    it as a context manager, to end the thread.

    With a `tracer` each answer has its line, after it was given, and so has what failed for want of the right input.
    """

    def __init__(self, captioner: Captioner, tracer: Tracer | None = None) -> None:
        self.captioner = captioner
        self.tracer = tracer
        self._waiting: OrderedDict[Hashable, deque[Job[Any]]] = OrderedDict()  # by whose turn it is
        self._running: list[Job[Any]] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="vlm engine", daemon=True)
        self._thread.start()

    def caption(self, owner: Hashable, image: EncodedImage, **options: Any) -> Job[Answer]:
        """Caption an image; `options` are those of `EncodedImage.caption`. Raises what it raises before it begins."""
        return self._search(owner, Search(image, None, choose(CAPTION, options)))

    def ask(
        self, owner: Hashable, image: EncodedImage, question: str, **options: Any
    ) -> Job[Answer]:
        """Answer a question about an image; `options` and what it raises as `EncodedImage.ask`."""
        return self._search(
            owner, Search(image, question, self.captioner.choose([question], options))
        )

    def call(self, owner: Hashable, function: Callable[[], T]) -> Job[T]:
        """Call what uses the model otherwise, such as encoding an image or making maps, in its turn and as a whole."""
        return self._submit(owner, function)

    def traced(self, answers: Sequence[Answer], options: Options) -> Sequence[Answer]:
        """The same answers, which a `call` made, with their lines written where requests are; for use within one."""
        if self.tracer is not None:
            for answer in answers:
                self.tracer.answered(answer, options)
        return answers

    def cancel(self, owner: Hashable) -> None:
        """Take back all that an owner has asked for."""
        with self._changed:
            jobs = [*self._waiting.pop(owner, ()), *self._running]
        for job in jobs:
            if job.owner == owner:
                job.cancel()

    def line(self, job: Job[Any]) -> Iterator[int]:
        """How many others have their turn before a request, whenever that changes, until there are none."""
        shown = 0
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._has_moved, job, shown), LINE_SECONDS)
                before = self._before(job)
            if not before:
                return
            if before != shown:
                yield before
            shown = before

    def _has_moved(self, job: Job[Any], shown: int) -> bool:
        before = self._before(job)
        return not before or before != shown

    def _before(self, job: Job[Any]) -> int:
        """How many others run or wait before a request; 0 once it runs or is done."""
        if job.done or job in self._running:
            return 0
        before = {other.owner for other in self._running if not other.done}
        for owner, queue in self._waiting.items():
            if owner == job.owner:
                break
            if any(not other.done for other in queue):
                before.add(owner)
        return len(before - {job.owner})

    @property
    def alive(self) -> bool:
        """Whether what is asked will be done: it is not closed, and its thread runs."""
        return self._thread.is_alive() and not self._closed

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        with self._changed:
            queues = self._waiting.values()
            return sum(not job.done for queue in queues for job in queue)

    def close(self) -> None:
        """Take back all requests and end the thread, after the token or function that it is at."""
        with self._changed:
            self._closed = True
            jobs = [job for queue in self._waiting.values() for job in queue] + self._running
            self._changed.notify_all()
        for job in jobs:
            job.cancel()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _search(self, owner: Hashable, search: Search) -> Job[Answer]:
        prompt = self.captioner.prompt(search.question)
        # Images with passages and images without do not make one batch.
        kind = (search.question is None, search.options, bool(search.image.passages))
        # A batch has the room that its longest prompt leaves; what is cut there might be longer alone.
        room = self.captioner.model.config.decoder.max_length - len(prompt.ids)
        return self._submit(owner, search, kind if room >= search.options.max_tokens else None)

    def _submit(
        self, owner: Hashable, work: Search | Callable[[], Any], kind: Hashable | None = None
    ) -> Job[Any]:
        job = Job(owner, work, kind, self.captioner.tokenizer)
        with self._changed:
            if self._closed:
                raise RuntimeError("the engine is closed")
            self._waiting.setdefault(owner, deque()).append(job)
            self._changed.notify_all()
        return job

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[Job[Any]]:
        """Wait for a request, and take those that may run together with it; none when the engine closes."""
        with self._changed:
            self._running = []
            while not self._closed and not self._running:
                if first := self._take(lambda job: True):
                    self._running = [first, *self._companions(first)]
                    self._changed.notify_all()  # those who wait move up
                else:
                    self._changed.wait()
            return self._running

    def _companions(self, first: Job[Any]) -> Iterator[Job[Any]]:
        for _ in range(TURN - 1):
            if first.kind is not None and (job := self._take(lambda job: job.kind == first.kind)):
                yield job

    def _take(self, fits: Callable[[Job[Any]], bool]) -> Job[Any] | None:
        """Take the next request of the first owner in the line where it fits, who then goes to the line's end."""
        for owner, queue in list(self._waiting.items()):
            while queue and queue[0].done:  # cancelled
                queue.popleft()
            taken = queue.popleft() if queue and fits(queue[0]) else None
            if not queue:
                del self._waiting[owner]
            elif taken:
                self._waiting.move_to_end(owner)
            if taken:
                return taken
        return None

    def _run(self, jobs: Sequence[Job[Any]]) -> None:
        try:
            if isinstance(jobs[0].work, Search):
                self._decode(jobs)
            else:
                jobs[0].finish(jobs[0].work())
        except BaseException as error:  # what would end the thread is told to who waits, too
            if len(jobs) == 1:
                jobs[0].fail(error)
                self._trace_failure(jobs[0], error)
                return
            for job in jobs:  # whose error it is shows where each runs alone
                if not job.done:
                    self._run([job])

    def _trace_failure(self, job: Job[Any], error: BaseException) -> None:
        """What a page looks up may fail, too: that is no request."""
        kind = UserError if isinstance(job.work, Search) else ImageError
        if self.tracer is not None and isinstance(error, kind):
            self.tracer.failed(type(error))

    def _decode(self, jobs: Sequence[Job[Answer]]) -> None:
        """Run the searches of several requests as one; each is done as soon as its own is."""
        captioner = self.captioner
        searches = [job.work.ready() for job in jobs if isinstance(job.work, Search)]
        start, first = time.perf_counter(), None

        def finish(row: int, hypotheses: Sequence[Hypothesis]) -> None:
            took = Took.since(start, first, len(jobs))
            search = searches[row]
            jobs[row].finish(found(search.image, search.question, hypotheses, took))

        begun = [
            captioner.start([s.image], None if s.question is None else [s.question])
            for s in searches
        ]
        projected = Projected.stack([part for part, _ in begun])
        prompts = [prompt for _, (prompt,) in begun]
        steps = captioner.steps(
            projected,
            prompts,
            searches[0].options,
            answering=searches[0].question is not None,
            nudges=[
                nudge
                for s in searches
                for nudge in captioner.nudges(
                    [s.image], None if s.question is None else [s.question]
                )
            ],
            wanted=lambda row: not jobs[row].done,
        )
        for step in steps:
            first = first or time.perf_counter()
            for row, hypotheses in enumerate(step):
                if jobs[row].done:
                    continue
                if all(hypothesis.finished for hypothesis in hypotheses):
                    finish(row, hypotheses)
                else:
                    jobs[row].advance(hypotheses)
        for row, hypotheses in enumerate(step):  # those that were cut at their greatest length
            if not jobs[row].done:
                finish(row, hypotheses)
        if self.tracer is not None:
            for job, search in zip(jobs, searches):
                if not job.future.cancelled():
                    waited = (start - job.asked) * 1000
                    self.tracer.answered(job.result(), search.options, waited)

"""Many image files through one model, in order: files are read ahead, and batches overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vlm.options import CAPTION, Options, choose

if TYPE_CHECKING:
    from vlm.answers import Answer
    from vlm.captioner import Captioner
    from vlm.images import Photo

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")
Done = TypeVar("Done", covariant=True)

READERS = 2  # threads that decode photos; more than this the model does not keep up with


class Running(Protocol[Done]):
    """Work that was begun elsewhere: a `Future`, or a `Job` of the engine."""

    def result(self) -> Done: ...


Submit = Callable[[Callable[[], Any]], Running[Any]]


def caption_files(
    captioner: Captioner,
    submit: Submit,
    files: Iterable[str],
    problems: list[str],
    pairs: Path | None = None,
    size: int | None = None,
    **options: Any,
) -> Iterator[tuple[str, Answer]]:
    """Each readable file with its caption, in order; `options` are those of `vlm.Options`. See `in_batches`.

    With `pairs`, a store of photos and captions, each is written beside those of photos like it.
    """
    work = partial(captioner.caption, **options)
    if pairs is not None:
        work = partial(_captions_beside, captioner, pairs, choose(CAPTION, options))
    yield from in_batches(captioner, submit, files, work, problems, size)


def _captions_beside(
    captioner: Captioner, pairs: Path, options: Options, photos: Sequence[Photo]
) -> list[Answer]:
    from vlm.documents.photo_pairs import PhotoPairs

    with PhotoPairs.open(pairs, captioner.blank_vector) as store:
        images = [image.recall(store) for image in captioner.encode_all(photos)]
    return captioner.write(images, None, options)


def in_batches(
    captioner: Captioner,
    submit: Submit,
    files: Iterable[str],
    work: Callable[[Sequence[Photo]], Sequence[T]],
    problems: list[str],
    size: int | None = None,
) -> Iterator[tuple[str, T]]:
    """Each readable file with what `work` makes of its photo, in order; `size` photos at a time, by default `BATCH`.

    `submit` begins the work on a batch elsewhere, such as in one of `model_threads` or in the engine. Two batches are
    under way at a time while the next is read, so however many files there are, so many pictures are in memory. A
    sentence on each file that cannot be read is added to `problems`.
    """
    from vlm.captioner import BATCH

    running: deque[tuple[list[str], Running[Sequence[T]]]] = deque()
    with ThreadPoolExecutor(READERS) as readers:
        for batch in _batches(captioner, readers, files, problems, size or BATCH):
            photos = [photo for _, photo in batch]
            running.append(([path for path, _ in batch], submit(partial(work, photos))))
            del photos, batch  # not kept while the next batch is read
            if len(running) > 1:
                paths, job = running.popleft()
                yield from zip(paths, job.result())
        while running:
            paths, job = running.popleft()
            yield from zip(paths, job.result())


@contextmanager
def model_threads(captioner: Captioner, shared: bool = True) -> Iterator[Submit]:
    """Threads that run a model on batches, and share the processor's cores.

    On a CPU two batches at a time, each with half the cores, are faster than one with all: while one batch's words are
    chosen, which leaves cores idle, another is encoded. On a GPU there is one thread, and so where another library than
    torch runs the model, whose cores are not `shared` here.
    """
    import torch

    cores = torch.get_num_threads()
    several = shared and captioner.model.device.type == "cpu" and cores > 1
    if several:
        torch.set_num_threads(cores // 2)
    try:
        with ThreadPoolExecutor(2 if several else 1) as pool:
            yield pool.submit
    finally:
        torch.set_num_threads(cores)


def _batches(
    captioner: Captioner,
    readers: Executor,
    files: Iterable[str],
    problems: list[str],
    size: int,
) -> Iterator[list[tuple[str, Photo]]]:
    """Readable files and their photos, as many as are captioned together."""
    batch: list[tuple[str, Photo]] = []
    for path, photo in ahead(readers, partial(_read, captioner), files, 2 * size):
        if isinstance(photo, str):
            problems.append(photo)
            continue
        batch.append((path, photo))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(captioner: Captioner, path: str) -> tuple[str, Photo | str]:
    """A file's photo, of which no more is kept than the model sees, as many wait; or why there is none."""
    from vlm.images import ImageError, load_image

    try:
        return path, replace(captioner.read(path), whole=partial(load_image, path))
    except ImageError as error:
        return path, str(error)


def ahead(
    pool: Executor, function: Callable[[In], Out], items: Iterable[In], number: int
) -> Iterator[Out]:
    """`map` in other threads, in order, at most `number` items ahead of what is used."""
    waiting: deque[Any] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > number:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()

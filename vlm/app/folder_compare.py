"""Two models or settings on a folder of photos: where they say the same, and where not."""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image

from vlm.answers import Answer
from vlm.app.folder_tab import FolderPage, View, served_file
from vlm.captioner import Captioner
from vlm.engine import TURN, Cancelled, Engine
from vlm.folder.pipeline import in_batches

MOST_SHOWN = 100  # rows on the page, those that agree least; the file has all
FILE = "agreement.csv"


@dataclass(frozen=True)
class Pair:
    """What both sides say of a photo; `share` is of the words of the longer that both have in the same order, 0..1."""

    name: str
    texts: tuple[str, str]
    share: float

    @classmethod
    def of(cls, name: str, answers: tuple[Answer, Answer]) -> Pair:
        first, second = ([word.text for word in answer.words] for answer in answers)
        return cls(name, (answers[0].text, answers[1].text), shared(first, second))


def shared(first: Sequence[str], second: Sequence[str]) -> float:
    """The length of the longest common subsequence by the longer one's; 1 for two that are empty."""
    longest = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, start=1):
            diagonal, longest[j] = (
                longest[j],
                diagonal + 1 if word == other else max(longest[j], longest[j - 1]),
            )
    most = max(len(first), len(second))
    return longest[-1] / most if most else 1.0


def agree(
    engines: Mapping[str, Engine], page: FolderPage, asked: Mapping[str, Any]
) -> Iterator[View]:
    """Caption the folder's photos by each of `asked["sides"]`, or answer `asked["question"]`, and compare.

    A side is `{"model", "beams", ...}`. What was compared when it is stopped is shown. Raises UserError where a model
    has no such task, or an option is wrong.
    """
    with page.lock:
        photos = {row.path: row.name for row in page.sheet.rows}
    stop_agreeing(engines, page)
    if not photos:
        yield {"message": "no folder"}
        return
    question = asked.get("question") or None
    owner = page.comparing = object()
    pairs: list[Pair] = []
    problems: list[str] = []
    sides = [_said(engines, owner, side, question, photos, problems) for side in asked["sides"]]
    yield {"done": 0, "of": len(photos)}
    try:
        for (path, first), (_, second) in zip(*sides):
            if page.comparing is not owner:  # stopped between two batches
                break
            pairs.append(Pair.of(photos[path], (first, second)))
            yield {"done": len(pairs), "of": len(photos)}
    except Cancelled:
        pass  # what is done stays
    if page.comparing is owner:
        page.comparing = None
    yield _table(page, pairs, len(set(problems)))


def stop_agreeing(engines: Mapping[str, Engine], page: FolderPage) -> None:
    """End a comparison within a batch; what is done stays."""
    owner, page.comparing = page.comparing, None
    if owner is not None:
        for engine in engines.values():
            engine.cancel(owner)


def _said(
    engines: Mapping[str, Engine],
    owner: object,
    side: Mapping[str, Any],
    question: str | None,
    photos: Mapping[str, str],
    problems: list[str],
) -> Generator[tuple[str, Answer]]:
    engine = engines[side["model"]]
    captioner = engine.captioner
    work = partial(_answers, captioner, question, side["beams"])
    yield from in_batches(captioner, lambda f: engine.call(owner, f), photos, work, problems, TURN)


def _answers(
    captioner: Captioner, question: str | None, beams: int, pictures: Sequence[Image.Image]
) -> list[Answer]:
    if question is None:
        return captioner.caption(pictures, beams=beams)
    return [image.ask(question, beams=beams) for image in captioner.encode_all(pictures)]


def _table(page: FolderPage, pairs: Sequence[Pair], failed: int) -> View:
    path = page.home.parent / FILE
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "first", "second", "shared"])
        table.writerows([pair.name, *pair.texts, f"{pair.share:.4f}"] for pair in pairs)
    least = sorted(pairs, key=lambda pair: pair.share)[:MOST_SHOWN]
    thumbnails = page.thumbnails_of([pair.name for pair in least])
    return {
        "compared": len(pairs),
        "same": sum(pair.texts[0] == pair.texts[1] for pair in pairs),
        "share": sum(pair.share for pair in pairs) / max(1, len(pairs)),
        "failed": failed,
        "rows": [
            {
                "name": pair.name,
                "thumbnail": thumbnail,
                "texts": pair.texts,
                "share": round(pair.share, 4),
            }
            for pair, thumbnail in zip(least, thumbnails, strict=True)
        ],
        "file": gr.FileData(path=served_file(path), orig_name=FILE).model_dump(),
    }

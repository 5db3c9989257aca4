"""How well and how fast passages are found: recall, milliseconds, passages a second and memory, on a planted corpus."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

from benchmarks.planted import write_corpus
from vlm.documents.index import Index
from vlm.documents.ranking import By
from vlm.documents.vectors import MINILM, Space, Vectors

AT = 5  # passages found that count
WAYS: tuple[By, ...] = ("both", "words", "meaning")


class ByChance:
    """Unit vectors that cost nothing."""

    space = Space("by chance", MINILM.width)

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), self.space.width))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recall(
    index: Index, questions: Sequence[tuple[str, str]], by: By
) -> tuple[float, list[float], list[float]]:
    """The share of answers among the first AT passages; milliseconds of each, by the clock and of the processor."""
    hits, times, cores = 0, [], []
    for text, answer in questions:
        start, processor = time.perf_counter(), time.process_time()
        found = index.search(text, AT, by)
        times.append((time.perf_counter() - start) * 1000)
        cores.append((time.process_time() - processor) * 1000)
        hits += any(answer in f.passage.text for f in found)
    return hits / len(questions), times, cores


def main(
    passages: Annotated[int, typer.Option(min=100, help="Passages of the corpus.")] = 10_500,
    questions: Annotated[int, typer.Option(min=1, help="Questions that are asked.")] = 500,
    seed: Annotated[
        int, typer.Option(help="Which corpus; settings of the search were chosen on that of 1.")
    ] = 0,
    store_alone: Annotated[
        bool,
        typer.Option(
            "--store-alone", help="Vectors by chance: what the store costs without the encoder."
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where corpus and index are kept; what is there already is not made again."
        ),
    ] = None,
) -> None:
    """Index a corpus of invented facts and ask about it; each question has one right passage."""
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        notes = place / "notes"
        notes.mkdir(parents=True, exist_ok=True)
        asked = write_corpus(notes, passages, seed)[:: max(1, passages // questions)][:questions]
        encoder = ByChance() if store_alone else None
        with Index.open(place / "index.db", encoder) as index:
            index.search("loads the encoder")
            index_corpus(index, notes)
            for wording, texts in (
                ("the thing named as it is", [q.named for q in asked]),
                ("the thing in other words", [q.in_other_words for q in asked]),
            ):
                print(f"{len(asked)} questions, {wording}")
                pairs = list(zip(texts, (q.answer for q in asked)))
                for by in WAYS:
                    share, times, cores = recall(index, pairs, by)
                    slow = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
                    print(
                        f"  {by:8} recall@{AT} {100 * share:5.1f} %; {statistics.median(times):.1f} ms a query, "
                        f"95 % within {slow:.1f} ms; {statistics.median(cores):.1f} ms of the processor",
                        flush=True,
                    )


def index_corpus(index: Index, notes: Path) -> None:
    """Add the corpus, and print how fast and with how much memory."""
    memory, held = psutil.Process().memory_info, []
    start, processor = time.perf_counter(), time.process_time()
    report = index.add([notes], lambda *_: held.append(memory().rss / 1e6))
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    print(f"{len(index):,} passages, {len(report.unchanged)} files were there", flush=True)
    if report.passages:
        tenth = len(held) // 10
        print(
            f"{report.passages:,} passages in {seconds:.0f} s: {report.passages / seconds:.0f} a second by the clock, "
            f"{report.passages / processor:.0f} a second of one core; memory {held[tenth]:.0f} MB after a tenth, "
            f"{held[-1]:.0f} MB at the end",
            flush=True,
        )
    size = sum(file.stat().st_size for file in Path(index.path).parent.glob("index.db*"))
    print(f"the index has {size / 1e6:.0f} MB", flush=True)


if __name__ == "__main__":
    typer.run(main)

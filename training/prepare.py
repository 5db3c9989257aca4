"""Look at a dataset of any known format, list its images, or write it as shards: `vlm prepare COMMAND ...`

In a checkout `python -m training.prepare` is the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from vlm.cli.failures import clear_errors, fail, run_program

from .data.describe import (
    Overlap,
    Summary,
    find_overlaps,
    plot_summaries,
    quantile,
    summarise,
)
from .data.records import DataError
from .data.report import Report
from .data.scenes import read_stamps, write_scenes
from .data.synthetic import questions_from_captions
from .data.webdataset import write_shards
from .dataset_arguments import Format, Images, ReaderOptions, read_all

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look at a dataset of any known format, list its images, or write it as shards.",
)
console = Console()

SourcePath = Annotated[str, typer.Argument(help="The dataset's folder, file or name.")]
Limit = Annotated[float, typer.Option(help="The largest accepted share of broken entries.")]


@app.command()
@clear_errors("train")
def shards(
    path: SourcePath,
    out: Annotated[Path, typer.Argument(help="The folder to write the shards to.")],
    split: Annotated[str, typer.Option(help="The split to write.")] = "train",
    format: Format = None,
    images: Images = None,
    option: ReaderOptions = None,
    images_per_shard: Annotated[int, typer.Option(min=1)] = 1000,
    questions: Annotated[
        bool, typer.Option(help="Also write synthetic questions made from the captions.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic questions.")] = 0,
    broken: Limit = 0.05,
) -> None:
    """Write one split as WebDataset shards."""
    rows, pictures = Report(broken), Report(broken)
    records = read_all(path, format, split, images, option, rows)
    if questions:
        records += questions_from_captions(records, seed)
    written = write_shards(records, out, split, images_per_shard, pictures)
    console.print(f"{len(records)} records in {len(written)} shards in {out}")
    for what, report in (("rows", rows), ("images", pictures)):
        console.print(f"{what}: {report.summary()}", markup=False, highlight=False)


@app.command()
@clear_errors("train")
def scenes(
    out: Annotated[Path, typer.Argument(help="The folder to write the scenes to.")],
    stamps: Annotated[
        Path, typer.Option(help="Pictures name.png, each with a name.txt; Tux Paint's, say.")
    ] = Path("/usr/share/tuxpaint/stamps"),
    split: Annotated[str, typer.Option(help="The split to write.")] = "train",
    count: Annotated[int, typer.Option(min=1, help="How many scenes to draw.")] = 4000,
    seed: Annotated[int, typer.Option(help="Another seed draws other scenes.")] = 0,
) -> None:
    """Draw scenes of pictured things, with captions, questions and boxes.

    The stamps of Tux Paint are Debian's package tuxpaint-stamps-default.
    """
    found = read_stamps(stamps)
    write_scenes(found, out, split, count, seed)
    console.print(f"{count:,} scenes of {len(found):,} stamps in {out}")


@app.command()
@clear_errors("train")
def mean(
    checkpoint: Annotated[str, typer.Argument(help="A bundled name, a folder or a hub id.")],
    path: SourcePath,
    out: Annotated[Path, typer.Argument(help="The folder to write the checkpoint to.")],
    split: Annotated[str, typer.Option(help="The split whose images are averaged.")] = "train",
    limit: Annotated[int, typer.Option(min=1, help="How many of them, from the first.")] = 1000,
    format: Format = None,
    images: Images = None,
    option: ReaderOptions = None,
    broken: Limit = 0.05,
) -> None:
    """Give a checkpoint the mean of its training images, which stands in where it is shown none.

    Do it again where the encoder has learnt since.
    """
    from vlm.weights.hub import find
    from vlm.weights.store import load_checkpoint, save_checkpoint

    from .data.mean_image import with_mean_image

    pictures = Report(broken)
    records = read_all(path, format, split, images, option, Report(broken))
    refs = list({record.image.key: record.image for record in records}.values())[:limit]
    model, tokenizer = load_checkpoint(find(checkpoint))
    save_checkpoint(out, with_mean_image(model, refs, pictures), tokenizer)
    console.print(f"the mean of {pictures.good:,} images is in {out}")
    if not pictures.complete:
        console.print(f"images: {pictures.summary()}", markup=False, highlight=False)


@app.command()
@clear_errors("train")
def files(
    path: SourcePath,
    split: Annotated[str, typer.Option(help="The split whose images are listed.")] = "test",
    format: Format = None,
    images: Images = None,
    option: ReaderOptions = None,
    broken: Limit = 0.05,
) -> None:
    """Print the image files of one split, one a line, for other programs."""
    report = Report(broken)
    refs = [record.image for record in read_all(path, format, split, images, option, report)]
    if any(ref.data is not None or ref.member is not None for ref in refs):
        raise DataError(f"The images of {path} are not files of their own.")
    for name in dict.fromkeys(ref.path for ref in refs):
        print(name)
    if not report.complete:
        Console(stderr=True).print(report.summary(), markup=False, highlight=False)


@app.command()
@clear_errors("train")
def stats(
    path: SourcePath,
    split: Annotated[
        list[str] | None,
        typer.Option(help="A split; may be given several times.", show_default="train"),
    ] = None,
    format: Format = None,
    images: Images = None,
    option: ReaderOptions = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the figures to this file.")] = None,
    broken: Limit = 0.05,
) -> None:
    """Print lengths, vocabulary, answer types, and what the splits share."""
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        fail(f"--plot must name a .png, .svg or .pdf file, not {plot.name!r}")
    summaries: dict[str, Summary] = {}
    for name in split or ["train"]:
        report = Report(broken)
        summaries[name] = summarise(read_all(path, format, name, images, option, report))
        if not report.complete:
            console.print(f"{name}: {report.summary()}", markup=False, highlight=False)
    console.print(summary_table(summaries))
    console.print(kinds_table(summaries))
    if len(summaries) > 1:
        console.print(overlap_table(find_overlaps(summaries)))
    if plot is not None:
        plot_summaries(summaries, plot)


def summary_table(summaries: dict[str, Summary]) -> Table:
    """Sizes, lengths and vocabulary, one column a split."""
    table = Table(title="Sizes", caption="* mean (median, 99 %, longest)")
    table.add_column("")
    for name in summaries:
        table.add_column(name, justify="right")

    def lengths(counts: Counter[int]) -> str:
        if not counts:
            return "-"
        mean = sum(length * n for length, n in counts.items()) / counts.total()
        return f"{mean:.1f} ({quantile(counts, 0.5)}, {quantile(counts, 0.99)}, {max(counts)})"

    rows: list[tuple[str, Callable[[Summary], str]]] = [
        ("records", lambda s: f"{s.records:,}"),
        ("synthetic", lambda s: f"{s.synthetic:,}"),
        ("images", lambda s: f"{len(s.images):,}"),
        ("texts", lambda s: f"{s.texts:,}"),
        ("different captions", lambda s: f"{len(s.captions):,}"),
        ("different questions", lambda s: f"{len(s.questions):,}"),
        ("different answers", lambda s: f"{len(s.answers):,}"),
        ("words", lambda s: f"{s.words.total():,}"),
        ("vocabulary", lambda s: f"{len(s.words):,}"),
        ("words seen once", lambda s: f"{sum(n == 1 for n in s.words.values()):,}"),
        ("words a text*", lambda s: lengths(s.text_lengths)),
        ("words a question*", lambda s: lengths(s.question_lengths)),
    ]
    for title, value in rows:
        table.add_row(title, *(value(summary) for summary in summaries.values()))
    return table


def kinds_table(summaries: dict[str, Summary], most: int = 12) -> Table:
    """Share of each kind of record and of the most frequent answers, one column a split."""
    table = Table(title="Kinds, answers: %")
    table.add_column("")
    for name in summaries:
        table.add_column(name, justify="right")
    for what in ("kinds", "answers"):
        counts = [getattr(summary, what) for summary in summaries.values()]
        for name, _ in sum(counts, Counter()).most_common(most):
            shares = [100 * count[name] / count.total() if count else 0 for count in counts]
            table.add_row(name, *(f"{share:.1f}" for share in shares))
        table.add_section()
    return table


def overlap_table(overlaps: list[Overlap]) -> Table:
    """What each pair of splits shares; equal images in two splits make figures untrue."""
    table = Table(title="Shared by two splits")
    for title in ("splits", "images", "captions", "questions", "for example"):
        table.add_column(title, justify="left" if title in ("splits", "for example") else "right")
    for o in overlaps:
        example = " = ".join(Path(place).name for place in o.images[0]) if o.images else ""
        counts = (f"{n:,}" for n in (len(o.images), o.captions, o.questions))
        table.add_row(f"{o.first}, {o.second}", *counts, example)
    return table


if __name__ == "__main__":
    run_program(app)

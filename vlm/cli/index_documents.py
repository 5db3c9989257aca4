"""`vlm index`: documents to an index, and passages out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlm.cli.arguments import AsJson
from vlm.cli.failures import clear_errors, fail

if TYPE_CHECKING:
    from vlm.documents.ranking import By

app = typer.Typer(
    no_args_is_help=True,
    help="Index documents (.txt, .md, .html, .pdf, .docx), and find passages in them.",
)

IndexFile = Annotated[
    Path, typer.Option("--index", metavar="FILE", help="The index, one file that add makes.")
]
DEFAULT = Path("documents.db")


def add(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Documents, folders (all below them) or quoted globs."),
    ],
    index: IndexFile = DEFAULT,
) -> None:
    """Bring the index up to date: new and changed files are read, and those that are gone from a folder dropped.

    The same command again does what is missing, after a stop, too. A file that cannot be read is named at the end.
    """
    from vlm.documents.index import Index

    with Index.open(index) as opened:
        report = opened.add(paths, _show_progress)
        total = len(opened)
    counts = {
        "new": len(report.new),
        "changed": len(report.changed),
        "as they were": len(report.unchanged),
        "dropped": len(report.dropped),
    }
    said = ", ".join(f"{number} {fate}" for fate, number in counts.items() if number) or "nothing"
    print(f"{index}: {said}; {report.passages} passages more, {total} in all", flush=True)
    if report.left_out:
        typer.echo(report.left_out, err=True)
    for problem in report.problems:
        typer.secho(f"error: {problem}", err=True, fg="red")
    if report.problems:
        raise typer.Exit(1)


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A question, or words.")],
    index: IndexFile = DEFAULT,
    count: Annotated[int, typer.Option("-k", "--count", help="How many passages.")] = 5,
    by: Annotated[
        str,
        typer.Option(help="What finds: words, which is quickest, meaning, or both."),
    ] = "both",
    as_json: AsJson = False,
) -> None:
    """Print the passages that answer best, each with its source and page."""
    from vlm.documents.index import Index

    ways: dict[str, By] = {"both": "both", "words": "words", "meaning": "meaning"}
    if by not in ways:
        fail(f"--by is one of {', '.join(ways)}, not {by}")
    with Index.open(index, create=False) as opened:
        found = opened.search(text, count, ways[by])
    if not found:
        typer.echo(f"{index}: no passage was found", err=True)
    for passage, score in found:
        if as_json:
            print(json.dumps({**vars(passage), "score": score}), flush=True)
            continue
        place = passage.source if passage.page is None else f"{passage.source}, page {passage.page}"
        print(f"{place}\n  {' '.join(passage.text.split())}", flush=True)


def list_sources(index: IndexFile = DEFAULT, as_json: AsJson = False) -> None:
    """List the sources in the index, with their numbers of passages."""
    from vlm.documents.index import Index

    with Index.open(index, create=False) as opened:
        sources = opened.sources()
    for source in sources:
        line = json.dumps(source._asdict()) if as_json else f"{source.passages:6}  {source.name}"
        print(line, flush=True)


def remove(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE", help="Files, folders or names, as listed.")
    ],
    index: IndexFile = DEFAULT,
) -> None:
    """Forget sources; the files themselves stay."""
    from vlm.documents.index import Index

    missing = []
    with Index.open(index, create=False) as opened:
        names = [source.name for source in opened.sources()]
        for source in sources:
            place = Path(source).absolute()
            gone = [
                name
                for name in names
                if name == source or place in (Path(name), *Path(name).parents)
            ]
            for name in gone:
                opened.delete(name)
                print(f"{name} is forgotten", flush=True)
            if not gone:
                missing.append(source)
    if missing:
        fail(f"{index} has no {', '.join(missing)}; vlm index list shows what it has")


def _show_progress(done: int, total: int, name: str) -> None:
    if done % 100 == 99:
        typer.echo(f"{done + 1} of {total} files", err=True)


for command, run in (
    ("add", add),
    ("search", search),
    ("list", list_sources),
    ("remove", remove),
):
    app.command(command)(clear_errors("documents")(run))

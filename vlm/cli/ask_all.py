"""`vlm ask-all`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vlm.cli.arguments import Device, InPrecision, Model, OpenVino, load
from vlm.cli.caption import progress_bar
from vlm.cli.failures import fail
from vlm.folder.photo_table import Table, check_name
from vlm.options import Precision

COLUMNS = ("image", "question", "answer", "yes", "share")


def ask_all(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER... QUESTION", help="Photos, folders or quoted globs; last the question."
        ),
    ],
    csv: Annotated[
        Path,
        typer.Option("--csv", metavar="FILE", help="The table to write; photos in it are left."),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin the table anew, whatever it holds.")
    ] = False,
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    precision: InPrecision = Precision.float32,
) -> None:
    """Ask one question with the answer yes or no about all photos of a folder, at the encoder's speed.

    One token is scored for each: `yes` is its probability against no, and `share` how much of all probability the two
    have, small where the question has other answers. The same command again does what is missing.
    """
    from vlm.images.files import find_images

    if len(images) < 2 or os.path.exists(images[-1]):
        fail('give a folder and a question: vlm ask-all FOLDER "is there a person?" --csv FILE.csv')
    *places, question = images
    check_name(csv, (".csv",))
    files, problems, left_out = find_images(places)
    if not files:
        fail("; ".join([*problems, str(left_out)] if left_out else problems))
    from vlm.prompts import clean_question

    asked = clean_question(question)
    with Table(csv, COLUMNS, {"question": asked}, overwrite) as table:
        todo = [path for path in files if not table.has(path)]
        yes = written = 0
        try:
            if todo:
                from vlm.folder.pipeline import in_batches, model_threads
                from vlm.folder.yes_no import YES, first_tokens, yes_or_no

                captioner = load(model, device, openvino, precision)
                captioner.prompt(asked)  # what is wrong with it is told before a photo is read
                first_tokens(captioner)
                work = partial(yes_or_no, captioner, question=asked)
                with model_threads(captioner, not openvino) as submit, progress_bar(todo) as taken:
                    for path, said in in_batches(captioner, submit, taken, work, problems):
                        values = [asked, said.answer, round(said.yes, 4), round(said.share, 4)]
                        table.add(path, values)
                        yes += said.answer == YES
                        written += 1
        finally:
            before = len(files) - len(todo)
            print(
                f"{csv}: {written} answers more, {yes} of them yes; {before} were there", flush=True
            )
            if left_out:
                typer.echo(left_out, err=True)
            for problem in problems:
                typer.secho(f"error: {problem}", err=True, fg="red")
    if problems:
        raise typer.Exit(1)

"""`vlm caption-dataset`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vlm.bulk import dataset
from vlm.bulk.shards import Format
from vlm.cli.arguments import InPrecision, OpenVino, given, search_options
from vlm.options import CAPTION, Precision, choose


@search_options(CAPTION, without=("candidates",))
def caption_dataset(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, file or quoted glob of images, parquet files or WebDataset shards: a path, or a URL that "
            "fsspec reads (s3://bucket/shards)."
        ),
    ],
    out: Annotated[
        str, typer.Argument(help="The folder of parquet files to write: a path or URL.")
    ],
    format: Annotated[
        Format | None, typer.Option(help="By default that of the files there.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help='Parquet: the images; by default "image", or the only one of bytes.'),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Parquet: the column that names a row; by default the row's number."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A bundled name, a hub id, or a folder that all machines see."),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What runs the workers' models: cpu, cuda, or auto, any GPUs that Ray has.",
        ),
    ] = "auto",
    openvino: OpenVino = False,
    precision: InPrecision = Precision.float32,
    batch_size: Annotated[int, typer.Option(min=1, help="Images captioned together.")] = 8,
    part_size: Annotated[
        int, typer.Option(min=1, help="Images of a part, where it is not a whole shard.")
    ] = 1000,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="By default one a GPU or, without any, as many as the CPUs hold."),
    ] = None,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of each worker.")] = 1,
    **search: Any,
) -> None:
    """Caption millions of images with Ray, into parquet files of source, key, caption, score and error.

    An image that cannot be read is a row with an error. The same command again does what is left, so a run may be
    stopped at any time; let one run at a time write to a folder. It joins the Ray cluster of RAY_ADDRESS or of this
    machine, and else starts one on this machine. The exit code is 1 when parts are left, because the storage failed.
    """
    outcome = dataset.caption_dataset(
        source,
        out,
        format,
        column,
        key,
        model,
        device,
        openvino,
        precision,
        choose(CAPTION, given(search)),
        batch_size,
        part_size,
        workers,
        cpus,
        say=lambda line: typer.echo(line, err=True),
    )
    print(
        f"{outcome.captioned} images captioned, {outcome.unreadable} could not be read, "
        f"{outcome.left} parts left; {outcome.before} files or row groups were done before"
    )
    if outcome.left:
        raise typer.Exit(1)

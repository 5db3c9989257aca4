"""What several commands take: a model, and what runs it."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(help="A bundled name, a folder or a hub id; by default the bundled model."),
]
OpenVino = Annotated[
    bool,
    typer.Option("--openvino", help="Have OpenVINO run the model: mostly faster, slower to start."),
]
Int8 = Annotated[
    bool, typer.Option("--int8", help="On OpenVINO, with weights in 8 bits, a quarter of the size.")
]

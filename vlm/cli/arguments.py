"""What several commands take: a model, what runs it, and how it chooses words."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from vlm.options import Options, Precision

if TYPE_CHECKING:
    from vlm.captioner import Captioner
    from vlm.trace import Tracer
    from vlm.trace_lines import TraceFile

Model = Annotated[
    str | None,
    typer.Option(help="A bundled name, a folder or a hub id; by default the bundled model."),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What runs the model: cpu, cuda, cuda:1, mps or auto, which takes a GPU of CUDA's where there is one.",
    ),
]
OpenVino = Annotated[
    bool,
    typer.Option("--openvino", help="Have OpenVINO run the model: mostly faster, slower to start."),
]
InPrecision = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="float32; bf16, faster on CPUs that have it, with nearly the same words; fp16, weights of half the size "
        "on any x86 CPU; int8, an encoder of 8 bits, too, on one with VNNI, or with --openvino all weights of 8 bits "
        "on any; or auto, what a probe finds fastest but int8.",
    ),
]
TraceTo = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Put a line about each request behind those in FILE, in numbers and hashes; `vlm signals` reads it.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]

# One option of the command line for each field of `vlm.Options`.
SEARCH = {
    "beams": "Beams of the search; 1 is greedy.",
    "candidates": "Distinct texts, best first.",
    "max_tokens": "The most tokens of a text; a word is one or several.",
    "min_tokens": "The fewest tokens of a text.",
    "length_penalty": "Texts of n tokens are ranked by log-probability / n to this power; more favours longer ones.",
    "no_repeat_ngram": "Let no sequence of so many tokens occur twice; 0 lets all.",
    "repetition_penalty": "Above 1, tokens that were used become less likely.",
    "sample": "Draw words by chance, instead of a search.",
    "temperature": "With --sample: below 1 likely words are drawn more often, above 1 less.",
    "top_k": "With --sample: draw among so many likeliest tokens; 0 among all.",
    "top_p": "With --sample: draw among the likeliest tokens that have this probability together.",
    "seed": "With --sample: the same seed draws the same words.",
}


def search_options(
    defaults: Options, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, which takes them as keywords, the options of SEARCH but for some; one not given is None or False.

    The help shows the `defaults` of the command's task. `vlm.Options` says what values are allowed.
    """
    types = get_type_hints(Options)

    def option(name: str) -> inspect.Parameter:
        kind, default = types[name], getattr(defaults, name)
        info = typer.Option(
            f"--{name.replace('_', '-')}",
            help=SEARCH[name],
            show_default=False if default is None or default is False else str(default),
            rich_help_panel="How words are chosen",
        )
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[kind, info],  # type: ignore[valid-type]
        )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        parameters = [*own, *(option(name) for name in SEARCH if name not in without)]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def given(search: dict[str, Any]) -> dict[str, Any]:
    """The options that the user gave."""
    return {
        name: value for name, value in search.items() if value is not None and value is not False
    }


@contextmanager
def uncollected() -> Iterator[None]:
    """For long imports: hardly an object of theirs is ever freed, and looking for those takes a quarter of the time.

    At the end of the process again, so that what there is by then is never looked through.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def load(
    name: str | None,
    device: str,
    openvino: bool,
    precision: Precision,
    gradients: bool = False,
) -> Captioner:
    """The model that the options stand for; what `auto` was decided for is told."""
    with uncollected():
        from vlm.loading import find_precision, load
    if precision == Precision.auto:
        precision, why = find_precision(precision, device, openvino, gradients)
        typer.echo(f"precision {precision}: {why}", err=True)
    return load(name, device, openvino, precision, gradients)


def trace_file(path: Path | None) -> AbstractContextManager[TraceFile | None]:
    """The file of `--trace`, if any. Raises TraceError, before a model is loaded, where it cannot be written."""
    if path is None:
        return nullcontext()
    from vlm.trace_lines import TraceFile

    return TraceFile(path)


def tracer_of(
    file: TraceFile | None,
    captioner: Captioner,
    name: str | None,
    openvino: bool,
    precision: Precision,
) -> Tracer | None:
    """What writes lines about a model's requests; the model is one that `load` gave."""
    if file is None:
        return None
    from vlm.loading import find_precision
    from vlm.trace import Tracer, settings_of
    from vlm.weights.hub import DEFAULT

    found, _ = find_precision(precision, captioner.model.device.type, openvino)
    return Tracer(file, settings_of(captioner, name or DEFAULT, found, openvino))

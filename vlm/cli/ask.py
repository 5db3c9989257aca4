"""`vlm ask` and `vlm explain`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from vlm.answers import Answer, answer_line
from vlm.cli.arguments import (
    AsJson,
    Device,
    InPrecision,
    Model,
    OpenVino,
    TraceTo,
    given,
    load,
    search_options,
    trace_file,
    tracer_of,
)
from vlm.cli.failures import fail
from vlm.errors import how_to_install
from vlm.options import ANSWER, Precision, choose

if TYPE_CHECKING:
    from vlm.captioner import Captioner
    from vlm.documents.passages import Passage
    from vlm.explain.paint import Style

REGION = "LEFT,TOP,RIGHT,BOTTOM"

Photo = Annotated[Path, typer.Argument(metavar="IMAGE", help="A photo.")]


@search_options(ANSWER)
def ask(
    asked: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE QUESTION",
            help="A photo, and one or several questions, each quoted. With --docs there need be no photo.",
        ),
    ],
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    precision: InPrecision = Precision.float32,
    docs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Answer also from these: documents, folders of them, or an index of `vlm index`.",
        ),
    ] = None,
    metadata: Annotated[
        bool,
        typer.Option(
            "--metadata",
            help="Answer also from what the photo's metadata and names say: place, date, title, people, tags.",
        ),
    ] = False,
    as_json: AsJson = False,
    trace: TraceTo = None,
    **search: Any,
) -> None:
    """Answer questions about a photo, with the confidence of each answer and its alternatives.

    With --docs also from documents, or from these alone, with --metadata from what the photo's file says, and each
    answer with what it rests on.
    """
    options = given(search)
    choose(ANSWER, options)  # what is wrong is told before a model is loaded
    image, questions = _photo_and_questions(asked, bool(docs))
    if image is not None:
        check(image)
    elif metadata:
        fail("--metadata is what a photo's file says; give a photo before the question")
    told = _metadata(image) if image is not None and metadata else []
    with trace_file(trace) as file:
        captioner = load(model, device, openvino, precision)
        tracer = tracer_of(file, captioner, model, openvino, precision)
        told = _those_that_fit(captioner, told, beside_documents=bool(docs))
        name = None if image is None else str(image)
        found = answers(captioner, image, questions, docs or [], options, told)
        for question, answer in zip(questions, found):
            if answer.question != question:
                print(f"{question!r} is asked as {answer.question!r}", file=sys.stderr)
            if as_json:
                print(json.dumps({"image": name, **answer.to_dict()}), flush=True)
            else:
                print(answer_line(answer, with_question=len(questions) > 1), flush=True)
            if tracer is not None:
                chosen = captioner.choose(questions, options)
                tracer.answered(answer, chosen, source=name)


def _photo_and_questions(asked: list[str], has_docs: bool) -> tuple[Path | None, list[str]]:
    """The photo, which comes first, and the questions; with documents the first may be a question, too."""
    from vlm.images.files import is_image

    first = asked[0]
    if has_docs and not is_image(first) and not os.path.exists(first):
        return None, asked
    if len(asked) == 1:
        raise typer.BadParameter(
            "give a photo and behind it a question, in quotes; or a question and --docs"
        )
    return Path(first), asked[1:]


def answers(
    captioner: Captioner,
    photo: Path | None,
    questions: list[str],
    docs: list[str],
    options: dict[str, Any],
    also: Sequence[Passage] = (),
) -> Iterator[Answer]:
    """Answers about a photo and the passages `also`, with `docs` from those there, too, that fit a question best.

    Without a photo they are from `docs` alone.
    """
    if not docs:
        assert photo is not None
        yield from captioner.encode(photo).beside(also).ask_all(questions, **options)
        return
    from vlm.documents_alone import ask_documents

    try:
        from vlm.documents.consult import consulted
    except ImportError as error:
        fail(f"--docs needs the package {error.name}; {how_to_install('documents')}")
    _ = captioner.reading  # what is wrong is told before they are read, which may take minutes
    image = None if photo is None else captioner.encode(photo)
    with consulted(docs) as (index, added):
        for problem in [*added.problems, *[str(added.left_out)] * bool(added.left_out)]:
            print(problem, file=sys.stderr)
        for question in questions:
            if image is None:
                yield ask_documents(question, index, captioner, **options)
            else:
                yield image.look_up(index, question, also).ask(question, **options)


def _metadata(image: Path) -> list[Passage]:
    """What the photo's metadata says; what of it cannot be read is told."""
    from vlm.folder.metadata_passages import read_metadata

    found = read_metadata(image)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    return found.passages


def _those_that_fit(
    captioner: Captioner, told: list[Passage], beside_documents: bool
) -> list[Passage]:
    """As much of the metadata as the model reads at once; what is left out is told."""
    config = captioner.model.config.documents
    if config is None or not told:
        return told
    from vlm.passages_beside import metadata_that_fits

    kept, left_out = metadata_that_fits(told, captioner.tokenizer, config, beside_documents)
    if left_out is not None:
        print(left_out, file=sys.stderr)
    return kept


def explain(
    image: Photo,
    question: Annotated[
        str | None, typer.Option(help="Explain the answer to this, not a caption.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Explain this text, not the model's own.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What makes the maps: logit, attention, value, relevance, occlusion, pixels, contrast or context; "
            "docs/explanations.md has what they show.",
            show_default="logit, or attention where the model has no logit",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="One cross-attention layer, counted from 0; by default the mean of all."),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(help="One attention head, counted from 0; by default the mean of all."),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER:HEAD,...", help="Some attention heads, such as 1:0,2:5, and their mean."
        ),
    ] = None,
    foil: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="With --method contrast or relevance: why each word, and not this one.",
        ),
    ] = None,
    hide: Annotated[
        str | None, typer.Option(metavar=REGION, help="Hide a part of the photo, in pixels.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar=REGION, help="Show nothing but a part of the photo.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What to write, by its ending: a sheet of all words (.png), an animation over them (.webp), a page in "
            "which words and patches light each other up (.html), or arrays (.npz).",
        ),
    ] = None,
    style: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How maps lie over the photo in a .png or .webp: heat, contour or outline; by default heat.",
        ),
    ] = None,
    model: Model = None,
    device: Device = "auto",
    openvino: OpenVino = False,
    precision: InPrecision = Precision.float32,
    as_json: AsJson = False,
) -> None:
    """Show where the model looked for each word: in a picture, a page or arrays (--out), as JSON (--json), or both."""
    if out is None and not as_json:
        fail("give --out FILE for a picture, a page or arrays, --json for the maps, or both")
    if out is None and style is not None:
        fail("--style is how a picture looks; give --out FILE.png or FILE.webp, too")
    if out is not None:
        from vlm.explain.outputs import check_output

        check_output(out, style)
    check(image)
    from vlm.explain.maps import find_method
    from vlm.explain.method import Choice

    choice = Choice(layer, head, _heads(heads), foil)
    how = find_method(method or "logit", choice)  # what is wrong is told before a model is loaded
    if None not in (hide, only):
        fail("give --hide or --only, and not both")
    hidden, shown = _region("--hide", hide), _region("--only", only)
    encoded = load(model, device, openvino, precision, how.gradients).encode(image)
    if hidden is not None:
        encoded = encoded.without(hidden)
    if shown is not None:
        encoded = encoded.region(shown)
    if text is not None:
        answer = encoded.explain(text, question)
    elif question is not None:
        answer = encoded.ask(question)
    else:
        answer = encoded.caption()
    maps = answer.maps(layer, head, method, heads=choice.heads, foil=foil)
    if out is not None:
        from vlm.explain.outputs import save

        # `check_output` has seen that it is a style.
        alone = answer.image_effect.alone(maps)
        save(out, encoded.picture, encoded.frame, maps, cast("Style | None", style), alone=alone)
    if as_json:
        effect = answer.image_effect
        nats = iter(effect.words)  # a question's words were given: the image did nothing for them
        words = [
            word.to_dict() | ({} if word.role == "question" else {"image_effect": next(nats)})
            for word in maps
        ]
        said = {"text": answer.text, "image_effect": effect.total, "blind": effect.blind}
        print(json.dumps({"image": str(image), **said, "words": words}), flush=True)
    else:
        print(answer.text, flush=True)


def _region(option: str, text: str | None) -> tuple[float, ...] | None:
    """The region that "0,0,320,240" names."""
    if text is None:
        return None
    try:
        edges = tuple(float(edge) for edge in text.split(","))
    except ValueError:
        edges = ()
    if len(edges) != 4:
        fail(f"{option} takes {REGION} in pixels, such as 0,0,320,240, not {text!r}")
    return edges


def _heads(text: str | None) -> tuple[tuple[int, int], ...]:
    """The heads that "1:0,2:5" names."""
    if text is None:
        return ()
    pairs = [part.split(":") for part in text.split(",")]
    if not all(len(pair) == 2 and all(n.strip().isdecimal() for n in pair) for pair in pairs):
        fail(f"--heads takes pairs of numbers such as 1:0,2:5, not {text!r}")
    return tuple((int(layer), int(head)) for layer, head in pairs)


def check(image: Path) -> None:
    """Fail for what is no photo, before a model is loaded, so that a bad path is told at once."""
    from vlm.images import load_image

    if not os.path.exists(image):
        fail(f"{image}: no such file")
    load_image(image)

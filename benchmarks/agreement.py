"""How many next tokens another precision changes: `python -m benchmarks.agreement MODEL PHOTO...`"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
import typer

import vlm
from vlm.captioner import Captioner
from vlm.images import ImageError, ImageSource
from vlm.options import Precision
from vlm.runtimes.openvino import BackendError
from vlm.weights.store import CheckpointError


@torch.inference_mode()
def changed(
    captioner: Captioner, reference: Captioner, photos: Iterable[ImageSource]
) -> tuple[int, int]:
    """How many tokens of the reference's greedy captions have another most likely next token, and of how many."""
    likely: list[list[int]] = [[], []]
    for photo in photos:
        images = [model.encode(photo) for model in (captioner, reference)]
        ids = images[1].caption(beams=1).ids
        for image, tokens in zip(images, likely):
            projected, prompts = image.captioner.start([image], None)
            decoder = image.captioner.model.decoder
            hidden = decoder(torch.tensor([[*prompts[0], *ids]]), projected).hidden[0]
            logits = decoder.logits(hidden)[len(prompts[0]) - 1 :]
            tokens += logits.argmax(dim=-1).tolist()
    return sum(a != b for a, b in zip(*likely)), len(likely[0])


def main(
    model: Annotated[str, typer.Argument(help="A bundled name, a folder or a hub id.")],
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="Files.")],
    precision: Annotated[
        Precision, typer.Option(help="What is held against float32.")
    ] = Precision.int8,
    openvino: Annotated[bool, typer.Option("--openvino", help="Have OpenVINO run it.")] = False,
) -> None:
    """Print how many next tokens of greedy captions another precision than float32 changes."""
    try:
        count, total = changed(
            vlm.load(model, precision=precision, openvino=openvino), vlm.load(model), photos
        )
    except (BackendError, CheckpointError, ImageError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    print(
        f"{count} of {total:,} next tokens changed ({100 * count / total:.2f} %), {len(photos):,} photos"
    )


if __name__ == "__main__":
    typer.run(main)

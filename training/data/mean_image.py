"""What a model's images look like in the mean, patch by patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from vlm.images import ImageError, read_photo
from vlm.model.model import VisionLanguageModel

from .records import DataError, ImageRef
from .report import Broken, Report

BATCH = 8  # images encoded together


@torch.inference_mode()
def with_mean_image(
    model: VisionLanguageModel, images: Sequence[ImageRef], report: Report
) -> VisionLanguageModel:
    """A model of the same weights that also holds the mean of its encoder's patches over `images`.

    What cannot be read goes into `report`. Raises DataError where there is too much of that, or nothing else.
    """
    preprocess, total = model.config.vision.preprocess, torch.zeros(())
    for start in range(0, len(images), BATCH):
        pixels = []
        for image in images[start : start + BATCH]:
            try:
                pixels.append(preprocess.pixels(read_photo(image.read(), preprocess).seen))
            except (ImageError, DataError) as error:
                report.skip(Broken(str(image), str(error)))
                continue
            report.good += 1
        if pixels:
            patches, _ = model.vision.eval()(torch.stack(pixels))
            total = total + patches.double().sum(dim=0)  # (N, D)
    report.check()
    if not report.good:
        raise DataError("there are no images to take the mean of")
    mean = (total / report.good).float()
    config = replace(model.config, mean_patches=len(mean))
    same = VisionLanguageModel(config, initialise=False)
    same.load_state_dict({**model.state_dict(), "mean_patches": mean}, assign=True)
    return same.eval()

"""Dev images as the loop sees them: the model's loss, and the words it writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from vlm.captioner import Captioner
from vlm.generate import generate
from vlm.model.model import VisionLanguageModel
from vlm.options import Options
from vlm.tokenizer import Tokenizer

from ..data.mixing import attempt
from ..data.records import Record
from ..data.report import Broken
from ..evaluation.predict import Prediction, question_problem, with_all_captions
from ..recipe.sources import Group, dev_order
from .examples import Batch, examples, make_batch
from .inputs import Inputs
from .objectives import Likelihood, encode


class Dev:
    """Dev images in a fixed order; each process takes its part of them.

    Nothing is drawn: images are not mirrored, all questions are asked, and an image that cannot be read is left out.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        inputs: Inputs,
        tokenizer: Tokenizer,
        max_length: int,
        batch_images: int,
        workers: int,
    ) -> None:
        self.groups = dev_order(groups)
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_images = batch_images
        self.workers = workers

    def loss(self, model: VisionLanguageModel, accelerator: Accelerator) -> float:
        """Mean cross-entropy in nats a token, without smoothing or dropout."""
        likelihood = Likelihood(model)
        total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        with torch.inference_mode():
            for _, batch in self._batches(self.groups, accelerator):
                with accelerator.autocast():
                    loss = likelihood(batch.to(accelerator.device))
                total += torch.tensor([loss.item(), batch.targets], device=total.device)
        nats, tokens = accelerator.reduce(total).tolist()
        return nats / tokens if tokens else math.nan  # where no image could be read

    def predict(
        self, model: VisionLanguageModel, accelerator: Accelerator, images: int
    ) -> list[Prediction]:
        """Greedy captions and answers for the first `images` images, on every process.

        A question that the model cannot read is answered with no words.
        """
        captioner = Captioner(model, self.tokenizer)
        predictions: list[Prediction] = []
        with torch.inference_mode():
            for groups, batch in self._batches(self.groups[:images], accelerator):
                with accelerator.autocast():
                    predictions += _predict(captioner, groups, batch.to(accelerator.device))
        return gather_object(predictions)

    def _batches(
        self, groups: Sequence[Group], accelerator: Accelerator
    ) -> Iterator[tuple[list[Group], Batch]]:
        mine = groups[accelerator.process_index :: accelerator.num_processes]
        return iter(DataLoader(_Batches(self, mine), batch_size=None, num_workers=self.workers))


def _predict(captioner: Captioner, groups: list[Group], batch: Batch) -> list[Prediction]:
    asked: list[tuple[int, Record]] = []
    unread: list[Prediction] = []
    for image, group in enumerate(groups):
        for record in one_caption_and_questions(group):
            if problem := question_problem(captioner, record):
                unread.append(Prediction(record, "", 0.0, problem))
            else:
                asked.append((image, record))
    if not asked:
        return unread
    model, tokenizer = captioner.model, captioner.tokenizer
    prompts = [captioner.prompt(record.question).ids for _, record in asked]
    rows = torch.tensor([image for image, _ in asked], device=model.device)
    projected = model.decoder.project(encode(model, batch)).select(rows)
    end, pad = tokenizer.end, tokenizer.pad
    written = generate(model.decoder, projected, prompts, end, pad, Options())
    return unread + [
        Prediction(record, tokenizer.decode(best.ids), math.exp(sum(best.logprobs)))
        for (_, record), (best, *_) in zip(asked, written)
    ]


class _Batches(Dataset[tuple[list[Group], Batch]]):
    def __init__(self, dev: Dev, groups: Sequence[Group]) -> None:
        self.dev = dev
        self.groups = groups

    def __len__(self) -> int:
        return -(-len(self.groups) // self.dev.batch_images)

    def __getitem__(self, index: int) -> tuple[list[Group], Batch]:
        dev, first = self.dev, index * self.dev.batch_images
        groups, images = [], []
        for group in self.groups[first : first + dev.batch_images]:
            image = attempt(dev.inputs.load, group, group.image)
            if not isinstance(image, Broken):
                groups.append(group)
                images.append(image)
        rows = [examples(group, dev.tokenizer, dev.max_length) for group in groups]
        keys = [group.image.key for group in groups]
        return groups, make_batch(keys, images, rows, dev.inputs, dev.tokenizer.pad)


def one_caption_and_questions(group: Group) -> list[Record]:
    """What to write about an image: one caption, whose references are all captions, and each answer."""
    captions = [record for record in group.records if record.question is None]
    return with_all_captions(captions) + [r for r in group.records if r.question is not None]

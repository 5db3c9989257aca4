"""What a step minimises: weighted cross-entropy, and the rows that self-critical training makes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from vlm.generate import generate
from vlm.model.decoder import Projected
from vlm.model.grounding import NO_PASSAGE
from vlm.model.memory import Memory
from vlm.model.model import IGNORE_INDEX, VisionLanguageModel
from vlm.model.tags import Tags
from vlm.options import Options
from vlm.prompts import caption_prompt
from vlm.tokenizer import Tokenizer

from ..evaluation.metrics.reward import CiderReward
from ..recipe.recipe import MapLoss, SelfCritical
from .examples import NOTHING_TOLD, UNKNOWN_PASSAGE, Batch, Example, Rows, collate
from .map_loss import map_loss

# Stands for the end of a caption in the reward: a caption that stops after "with a" then pays for it.
END_WORD = "endofcaption"
# How sure the tags are of a name that they are told.
SURE_OF_TOLD = (0.7, 0.99)


def encoded(model: VisionLanguageModel, batch: Batch) -> tuple[Tensor, tuple[int, int]]:
    """The patches `(B, N, D)` of a batch's images, and their grid."""
    if batch.grid is None:
        # Convolutions in half precision are fastest on a GPU with a pixel's channels side by side.
        layout = torch.channels_last if batch.images.is_cuda else torch.preserve_format
        return model.vision(batch.images.contiguous(memory_format=layout))
    return batch.images.float(), batch.grid


def encode(model: VisionLanguageModel, batch: Batch) -> Memory:
    """The memory of a batch's images."""
    return model.remember(*encoded(model, batch))


def without_patches(memory: Memory, share: float) -> Memory:
    """The memory with the patches masked of a random `share` of those images that have something else to read."""
    real, image = memory.real.clone(), memory.image
    patches = torch.zeros_like(real)
    patches[:, image.start : image.stop] = True
    others = (real & ~patches).any(dim=1)  # (B,)
    chosen = others & (torch.rand(len(real), device=real.device) < share)
    return replace(memory, mask=real & ~(patches & chosen[:, None]))


class Likelihood(nn.Module):
    """The summed cross-entropy in nats of a batch's targets, each row by its weight.

    Keys and values of the images are projected once for all rows. `recompute` keeps the activations of one chunk,
    and of one block of an encoder that learns, at a time, and computes them again for the gradients. `keep_classes`
    adds, that many times, the divergence of the tagger's classes from those of the encoder as it is now.
    `hide_patches` is the share of images of which, while learning, only their tags can be read. With `maps` the mean
    divergence of words' attention from what hiding patches does is added to the mean cross-entropy, by its weight.
    Beside passages the cross-entropy of where a row's answer stands is added, `find` times.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        label_smoothing: float = 0.0,
        recompute: bool = False,
        keep_classes: float = 0.0,
        hide_patches: float = 0.0,
        maps: MapLoss | None = None,
        find: float = 0.0,
    ) -> None:
        super().__init__()
        if recompute and any(p.requires_grad for p in model.vision.parameters()):
            model.vision.trunk.set_grad_checkpointing()
        self.model = model
        self.label_smoothing = label_smoothing
        self.recompute = recompute
        self.hide_patches = hide_patches
        self.maps = maps
        self.find = find
        self.keep_classes = keep_classes
        self.first: nn.Module | None = None
        if keep_classes:
            self.first = deepcopy(model.vision).requires_grad_(False)

    def forward(self, batch: Batch) -> Tensor:
        patches, grid = encoded(self.model, batch)
        memory = self.model.remember(patches, grid, self._told(batch, patches))
        if self.training and self.hide_patches:
            memory = without_patches(memory, self.hide_patches)
        projected = self.model.decoder.project(memory)
        if batch.passages is not None:
            documents, words = self.model.documents, self.model.decoder.token_embedding
            assert documents is not None
            projected = replace(projected, grounding=documents(memory, batch.passages, words)[1])
        if self.recompute:
            sums = [checkpoint(self._sum, projected, c, use_reentrant=False) for c in batch.chunks]
        else:
            sums = [self._sum(projected, chunk) for chunk in batch.chunks]
        if self.first is not None:
            sums.append(self.keep_classes * self._forgotten(self.first, patches, batch))
        if self.training and self.maps is not None:
            divergence = map_loss(self.model, memory, projected, batch.chunks, self.maps)
            sums.append(self.maps.weight * batch.targets * divergence)
        return torch.stack(sums).sum()

    def _told(self, batch: Batch, patches: Tensor) -> Tags | None:
        """The tags of patches `(B, N, D)` with the names that the batch tells, surely, in the first place."""
        if batch.told is None or not (named := batch.told != NOTHING_TOLD).any():
            return None
        tagger = self.model.tagger
        assert tagger is not None
        tags = tagger.dropped(tagger.classify(patches))
        low, high = SURE_OF_TOLD
        sure = low + (high - low) * torch.rand(len(named), device=named.device)
        names, probabilities = tags.names.clone(), tags.probabilities.clone()
        names[named, 0] = batch.told[named]
        probabilities[named] *= 1 - sure[named, None]
        probabilities[named, 0] = sure[named]
        return Tags(names, probabilities)

    def _forgotten(self, first: nn.Module, patches: Tensor, batch: Batch) -> Tensor:
        """How far the classes of patches `(B, N, D)` are from those that the `first` encoder sees, in nats."""
        tagger = self.model.tagger
        assert tagger is not None
        with torch.no_grad():
            before = tagger.logits(first.eval()(batch.images)[0]).float().log_softmax(dim=-1)
        now = tagger.logits(patches).float().log_softmax(dim=-1)
        return F.kl_div(now, before, reduction="sum", log_target=True)

    def _sum(self, projected: Projected, rows: Rows) -> Tensor:
        # On a CPU the gradient of fused attention takes longer than all of the decoder's other products.
        plain = torch.is_grad_enabled() and rows.ids.device.type == "cpu"
        with sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
            chosen = projected.select(rows.image)
            decoded = self.model.decoder(rows.ids, chosen)
        kept = rows.targets != IGNORE_INDEX  # (R, T)
        logits = self.model.decoder.logits(decoded.hidden[kept]).float()  # (K, V)
        losses = F.cross_entropy(
            logits, rows.targets[kept], label_smoothing=self.label_smoothing, reduction="none"
        )
        # Not a product of vectors, which autocast would take in half precision.
        weighted = (losses * rows.weights[:, None].expand_as(kept)[kept]).sum()
        if not self.find or decoded.found is None:
            return weighted
        assert chosen.grounding is not None
        first = kept.int().argmax(dim=1)  # (R,)
        found = decoded.found[torch.arange(len(first), device=first.device), first]  # (R, P + 1)
        numbers = chosen.grounding.numbers
        numbers = numbers.repeat_interleave(len(found) // len(numbers), dim=0)
        return weighted + self.find * not_found(found, numbers, rows.passage)


def not_found(found: Tensor, numbers: Tensor, passages: Tensor) -> Tensor:
    """The summed cross-entropy in nats of the passages `(R,)` in which answers stand.

    `found` `(R, P + 1)` are log-probabilities of the passages' slots and of nowhere; `numbers` `(R, P)` says whose a
    slot is.
    """
    told = passages != UNKNOWN_PASSAGE
    there = F.pad(numbers[told], (0, 1), value=NO_PASSAGE) == passages[told, None]
    return -found[told].masked_fill(~there, float("-inf")).logsumexp(dim=1).sum()


class SelfCritic:
    """Self-critical sequence training on CIDEr-D (Rennie et al. 2017).

    A batch's captions become samples of the model, each weighted by how much its reward exceeds the baseline, so
    that cross-entropy on them is the policy gradient. Rows of questions stay as they are.
    """

    def __init__(
        self, tokenizer: Tokenizer, references: Mapping[str, Sequence[str]], options: SelfCritical
    ) -> None:
        self.tokenizer = tokenizer
        self.options = options
        self.reward = CiderReward(
            {key: [f"{text} {END_WORD}" for text in texts] for key, texts in references.items()}
        )
        self.keys = frozenset(references)

    @torch.no_grad()
    def __call__(
        self, model: VisionLanguageModel, batches: Sequence[Batch]
    ) -> tuple[list[Batch], float]:
        """The batches with samples in place of captions, and the mean reward of the samples.

        The model is in eval mode: what is sampled is what it would say. Torch's own generator decides.
        """
        judged = [self._judge(model, batch) for batch in batches]
        rewards = [reward for _, own in judged for reward in own]
        return [batch for batch, _ in judged], sum(rewards) / max(1, len(rewards))

    def _judge(self, model: VisionLanguageModel, batch: Batch) -> tuple[Batch, list[float]]:
        images = [image for image, key in enumerate(batch.keys) if key in self.keys]
        if not images:
            return batch, []
        limit, device = model.config.decoder.max_length, model.device
        projected = model.decoder.project(encode(model, batch))
        projected = projected.select(torch.tensor(images, device=device))
        keys = [batch.keys[image] for image in images]
        sampling = Options(sample=True, candidates=self.options.samples, max_tokens=limit)
        samples, rewards = self._write(model, projected, keys, sampling)  # (B, samples)
        if self.options.baseline == "greedy":
            greedy = Options(max_tokens=limit)
            baseline = self._write(model, projected, keys, greedy)[1]
        else:
            others = self.options.samples - 1
            baseline = (rewards.sum(dim=1, keepdim=True) - rewards) / others

        prompt = caption_prompt(self.tokenizer).ids
        rows: list[list[Example]] = [[] for _ in batch.keys]
        for image, texts, weights in zip(images, samples, (rewards - baseline).tolist()):
            rows[image] = [Example(prompt, text, weight) for text, weight in zip(texts, weights)]
        sampled = tuple(c.map(lambda t: t.to(device)) for c in collate(rows, self.tokenizer.pad))
        asked = tuple(chunk for chunk in map(self._asked, batch.chunks) if len(chunk.ids))
        return replace(batch, chunks=sampled + asked), rewards.flatten().tolist()

    def _write(
        self, model: VisionLanguageModel, projected: Projected, keys: list[str], options: Options
    ) -> tuple[list[list[tuple[int, ...]]], Tensor]:
        """Captions of each image, `end` included where they have one, and their rewards `(B, candidates)`."""
        prompts = [caption_prompt(self.tokenizer).ids] * len(keys)
        end, pad = self.tokenizer.end, self.tokenizer.pad
        seeds = torch.randint(2**40, (len(keys),)).tolist()  # images' chances must not be alike
        written = generate(model.decoder, projected, prompts, end, pad, options, seeds)
        captions = [hypothesis for hypotheses in written for hypothesis in hypotheses]
        texts = [self.tokenizer.decode(c.ids) + f" {END_WORD}" * c.finished for c in captions]
        repeated = [key for key in keys for _ in range(options.candidates)]
        rewards = torch.from_numpy(self.reward(repeated, texts)).float().view(len(keys), -1)
        return [[h.ids + (end,) * h.finished for h in hs] for hs in written], rewards

    def _asked(self, rows: Rows) -> Rows:
        """The rows of questions."""
        kept = rows.ids[:, 0] != caption_prompt(self.tokenizer).ids[0]
        return rows.map(lambda t: t[kept])

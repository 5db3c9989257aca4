"""diffusers' pipelines: one heatmap over the made image for each word of its prompt, summed over steps.

"What the DAAM: interpreting Stable Diffusion using cross attention", Tang et al., 2022 (ACL 2023): how much of each
patch's attention falls on a word's tokens, over layers, heads and steps. Where text and image attend to each other
jointly (Stable Diffusion 3, Flux), the same of the image's queries and the text's keys.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from vlm.attend.fused import FusedCalls, shares_of_keys
from vlm.attend.source import AttendError, Grid, Look, gather_maps
from vlm.attend.token_words import TokenWord, token_words
from vlm.explain.maps import WordMap
from vlm.explain.outputs import save
from vlm.explain.overlay import overlay
from vlm.explain.paint import Style
from vlm.images import Frame

Text = Literal["keys", "before", "after"]
"""Whether a model's text is all that its image attends to, or stands before or after the image in one sequence."""

# Of each class of models: what the attention to text is called, and where the text is.
KINDS: dict[str, tuple[str, Text]] = {
    "UNet2DConditionModel": ("attn2", "keys"),
    "SD3Transformer2DModel": ("attn", "after"),
    "FluxTransformer2DModel": ("attn", "before"),
}
OURS = ("prompt", "prompt_embeds", "output_type", "return_dict", "num_images_per_prompt")


@dataclass(frozen=True)
class MadeImage:
    """An image and what it made of its prompt's `words`; see `vlm.attend.source.Source`.

    `sums` are a layer each, `(W, h * w)`: the shares of attention that patches gave to each word, in the mean over
    heads and summed over steps. `left_out` are words of a long prompt that the model did not read.
    """

    image: Image.Image
    words: tuple[str, ...]
    sums: dict[int, Tensor]
    left_out: tuple[str, ...] = ()

    def looks(self) -> Iterator[Look]:
        for layer, weights in sorted(self.sums.items()):
            yield Look(layer, None, self._grid(weights.shape[1]), weights)

    def maps(self, layer: int | None = None) -> list[WordMap]:
        """One map for each word, over all layers or one. Raises AttendError where there is no such layer."""
        return gather_maps(self, "prompt", layer)

    def overlay(self, word: str, **style: Any) -> Image.Image:
        """The image under a word's map; `style` are keywords of `vlm.explain.overlay.overlay`."""
        (place,) = _asked([word.casefold() for word in self.words], [word])[:1]
        return overlay(self.image, self.frame, self.maps()[place], **style)

    def save(self, path: str, style: Style | None = None) -> None:
        """All words' maps as a file; see `vlm.explain.outputs.save`."""
        save(path, self.image, self.frame, self.maps(), style)

    @property
    def frame(self) -> Frame:
        width, height = self.image.size
        return Frame(width, height, (0.0, 0.0, float(width), float(height)))

    def _grid(self, patches: int) -> Grid:
        """The grid of so many patches whose shape is nearest to the image's."""
        ratio = self.image.height / self.image.width
        rows = [high for high in range(1, patches + 1) if patches % high == 0]
        high = min(rows, key=lambda high: abs(high * high / (patches * ratio) - 1))
        return high, patches // high


def make_image(
    pipeline: Any, prompt: str, words: Sequence[str] | None = None, **options: Any
) -> MadeImage:
    """Run a pipeline of `KINDS` for one image, and keep what its patches drew on some `words`, by default on all.

    A word that occurs several times has a map for each. `options` are the pipeline's own. It takes the memory of the
    `sums`, and 64 MB. Raises AttendError for another pipeline, for options that make several images, and for words that
    the prompt has not.
    """
    model: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    kind = type(model).__name__
    if kind not in KINDS:
        raise AttendError(
            f"{type(pipeline).__name__} is not looked into; pipelines of these are: {', '.join(KINDS)}"
        )
    if not isinstance(prompt, str):
        raise AttendError("give one prompt, a text")
    if given := [name for name in OURS if name in options]:
        raise AttendError(f"{given[0]} is not to be chosen here: one prompt makes one image")
    if options.get("true_cfg_scale", 1) > 1:
        raise AttendError(
            "with true_cfg_scale the prompts' passes cannot be told apart; leave it 1"
        )
    read, left_out = _prompt_words(pipeline, kind, prompt, options)
    texts = [word.text.casefold() for word in read]
    chosen = [i for i, text in enumerate(texts) if any(map(str.isalnum, text))]
    if words is not None:
        chosen = _asked(texts, words)
    if not chosen:
        raise AttendError("the prompt has no words; write some")
    asked = [read[i] for i in chosen]
    sums = _Sums(kind, [word.places for word in asked])
    name, _ = KINDS[kind]
    layers = [module for path, module in model.named_modules() if path.split(".")[-1] == name]
    handle = model.register_forward_pre_hook(sums.begins, with_kwargs=True)
    try:
        with FusedCalls(dict(enumerate(layers)), sums.see):
            (image,) = pipeline(prompt=prompt, **options).images
    finally:
        handle.remove()
    if not sums.layers:
        raise AttendError(
            "the pipeline made no call of torch's fused attention; undo attention slicing and other backends"
        )
    return MadeImage(image, tuple(word.text for word in asked), sums.layers, left_out)


class _Sums:
    """Sums over steps of what patches drew on words, by layer."""

    def __init__(self, kind: str, places: Sequence[tuple[int, ...]]) -> None:
        self.text: Text = KINDS[kind][1]
        self.places = places
        self.layers: dict[int, Tensor] = {}
        self.length = 0  # tokens of text in the pass that runs

    def begins(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        states = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        self.length = states.shape[1]

    def see(
        self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None
    ) -> None:
        if len(query) > 2:
            raise AttendError("the pipeline runs several images or guidances at once; one is seen")
        query, key = query[-1], key[-1]  # where there are two, the first is without the prompt
        offset = 0
        if self.text == "after":
            offset = key.shape[1] - self.length
            query = query[:, :offset]
        elif self.text == "before":
            query = query[:, self.length :]
        if mask is not None:
            mask = mask[-1].expand(-1, query.shape[1], -1) if mask.shape[-2] == 1 else mask[-1]
        flat = torch.tensor([offset + place for own in self.places for place in own])
        shares = shares_of_keys(query, key, flat.to(key.device), mask, scale).mean(dim=0)  # (P, N)
        by_word = [part.sum(dim=1) for part in shares.split([len(own) for own in self.places], 1)]
        seen = torch.stack(by_word).cpu()  # (W, P)
        self.layers[layer] = self.layers[layer] + seen if layer in self.layers else seen


def _prompt_words(
    pipeline: Any, kind: str, prompt: str, options: dict[str, Any]
) -> tuple[list[TokenWord], tuple[str, ...]]:
    """The prompt's words, with their places among all text that the model reads, and the words that it does not."""
    default = inspect.signature(pipeline.__call__).parameters.get("max_sequence_length")
    long = options.get("max_sequence_length", default.default if default else None)
    encoders = [(pipeline.tokenizer, 0, pipeline.tokenizer.model_max_length)]
    if kind == "FluxTransformer2DModel":
        encoders = [(pipeline.tokenizer_2, 0, long)]
    elif kind == "SD3Transformer2DModel":
        short = pipeline.tokenizer_max_length
        encoders = [(pipeline.tokenizer, 0, short)]
        if pipeline.text_encoder_3 is not None:
            encoders.append((pipeline.tokenizer_3, short, long))
    places: dict[tuple[str, int], list[int]] = {}  # of a word and how often it came before
    for tokenizer, offset, length in encoders:
        seen: list[str] = []
        words = token_words(tokenizer, tokenizer(prompt, truncation=False)["input_ids"])
        for word in words:
            text = word.text.casefold()
            read = [offset + place for place in word.places if place < length - 1]  # then the end
            places.setdefault((text, seen.count(text)), []).extend(read)
            seen.append(text)
    counted: list[str] = []
    found, left_out = [], []
    for word in words:  # as the last encoder spells them
        text = word.text.casefold()
        own = places[text, counted.count(text)]
        counted.append(text)
        if own:
            found.append(TokenWord(word.text, tuple(own)))
        else:
            left_out.append(word.text)
    return found, tuple(left_out)


def _asked(texts: Sequence[str], words: Sequence[str]) -> list[int]:
    """Where asked words stand among the prompt's, which are casefolded; each as often as it occurs."""
    chosen = []
    for word in words:
        found = [i for i, text in enumerate(texts) if text == word.casefold()]
        if not found:
            raise AttendError(f"{word!r} is no word that was read; these are: {', '.join(texts)}")
        chosen += found
    return sorted(set(chosen))

"""Published checkpoints of the families that are read here: what each is for, and short names for some."""

from __future__ import annotations

from dataclasses import dataclass

from vlm.model.config import Task


@dataclass(frozen=True)
class Known:
    """A checkpoint on the hub: its id, millions of parameters, licence, and what it is good at.

    `alias` is a short name that `vlm.load` takes in place of the id, where there is one.
    """

    name: str
    parameters: int
    tasks: tuple[Task, ...]
    licence: str
    good_at: str
    alias: str = ""


_READS: tuple[Task, ...] = ("caption",)  # of a page or a line, a text is a caption
_ALL: tuple[Task, ...] = ("caption", "vqa", "locate")

KNOWN: tuple[Known, ...] = (
    Known(
        "florence-community/Florence-2-base-ft",
        232,
        _ALL,
        "MIT",
        "captions short and long, questions, boxes, text in photos",
        alias="florence-2",
    ),
    Known(
        "florence-community/Florence-2-large-ft",
        771,
        _ALL,
        "MIT",
        "the same, of three times the parameters",
        alias="florence-2-large",
    ),
    Known(
        "florence-community/Florence-2-base",
        232,
        _ALL,
        "MIT",
        "the same before fine-tuning: detailed captions, boxes",
    ),
    Known(
        "florence-community/Florence-2-large",
        771,
        _ALL,
        "MIT",
        "the same before fine-tuning, large",
    ),
    Known("microsoft/Florence-2-base-ft", 232, _ALL, "MIT", "the first of these, older names"),
    Known("microsoft/Florence-2-large-ft", 771, _ALL, "MIT", "the first of these, older names"),
    Known(
        "Salesforce/blip-image-captioning-base",
        247,
        ("caption",),
        "BSD-3-Clause",
        "one plain sentence about a photo",
        alias="blip",
    ),
    Known(
        "Salesforce/blip-image-captioning-large",
        470,
        ("caption",),
        "BSD-3-Clause",
        "one sentence with more in it",
        alias="blip-large",
    ),
    Known(
        "Salesforce/blip-vqa-base",
        385,
        ("vqa",),
        "BSD-3-Clause",
        "short answers about photos",
        alias="blip-vqa",
    ),
    Known(
        "Salesforce/blip-vqa-capfilt-large",
        385,
        ("vqa",),
        "BSD-3-Clause",
        "the same, of captions that were filtered",
    ),
    Known(
        "laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k",
        254,
        ("caption",),
        "MIT",
        "one sentence in COCO's style",
        alias="coca",
    ),
    Known(
        "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k",
        638,
        ("caption",),
        "MIT",
        "one sentence in COCO's style, large",
        alias="coca-large",
    ),
    Known(
        "nlpconnect/vit-gpt2-image-captioning",
        239,
        ("caption",),
        "Apache-2.0",
        "one sentence, of 2021",
        alias="vit-gpt2",
    ),
    Known(
        "microsoft/trocr-base-printed",
        334,
        _READS,
        "MIT",
        "one line of printed text",
        alias="trocr",
    ),
    Known(
        "microsoft/trocr-base-handwritten",
        334,
        _READS,
        "MIT",
        "one line of handwriting",
        alias="trocr-handwritten",
    ),
    Known("microsoft/trocr-small-printed", 62, _READS, "MIT", "the same, printed, a fifth of it"),
    Known(
        "naver-clova-ix/donut-base-finetuned-docvqa",
        201,
        ("vqa",),
        "MIT",
        "questions about a scanned page",
        alias="donut",
    ),
    Known(
        "naver-clova-ix/donut-base-finetuned-cord-v2",
        201,
        _READS,
        "MIT",
        "a receipt's fields as JSON",
        alias="donut-receipts",
    ),
    Known(
        "facebook/nougat-base",
        349,
        _READS,
        "CC-BY-NC-4.0",
        "a page of a paper as Markdown, with its formulas",
        alias="nougat",
    ),
    Known(
        "facebook/nougat-small",
        247,
        _READS,
        "CC-BY-NC-4.0",
        "the same, of pages of 3,584 tokens at most",
        alias="nougat-small",
    ),
    Known(
        "google/pix2struct-textcaps-base",
        282,
        ("caption",),
        "Apache-2.0",
        "one sentence that reads out the text in a photo",
        alias="pix2struct",
    ),
    Known(
        "google/pix2struct-docvqa-base",
        282,
        ("vqa",),
        "Apache-2.0",
        "questions about a scanned page of any shape",
        alias="pix2struct-docvqa",
    ),
    Known(
        "google/deplot",
        282,
        ("vqa",),
        "Apache-2.0",
        'a chart as a table, asked "Generate underlying data table of the figure below:"',
        alias="deplot",
    ),
    Known(
        "google/matcha-chartqa",
        282,
        ("vqa",),
        "Apache-2.0",
        "questions about a chart",
        alias="matcha",
    ),
)

ALIASES = {known.alias: known.name for known in KNOWN if known.alias}

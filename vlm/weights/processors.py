"""transformers' image processors as our preprocessing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from vlm.images import Preprocess
from vlm.images.frame import Interpolation, Side
from vlm.typed import FieldError, Finite, Positive, fit
from vlm.weights import CheckpointError
from vlm.weights.families import read_json

_FILTERS: tuple[Interpolation, ...] = get_args(Interpolation)  # in the order of Pillow's codes
_HALF = {"image_mean": 0.5, "image_std": 0.5}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_CROPPED = {"do_center_crop": True, "crop_size": 224}
# What a file may leave out, by transformers' class without its ending.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {"resample": 2, "size": 224, **_HALF},
    "DeiT": {"resample": 3, "size": 256, **_CROPPED, **_HALF},
    "Beit": {"resample": 3, "size": 224, **_HALF},
    "Blip": {"resample": 3, "size": 384, **_CLIP},
    "Donut": {"resample": 2, "size": {"height": 2560, "width": 1920}, **_HALF},
    "Nougat": {
        "resample": 2,
        "size": {"height": 896, "width": 672},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    },
    "CLIP": {"resample": 3, "size": {"shortest_edge": 224}, **_CROPPED, **_CLIP},
    "Pix2Struct": {"max_patches": 2048, "patch_size": {"height": 16, "width": 16}},
}
_OLDER, _NEWER = "preprocessor_config.json", "processor_config.json"
_ENDINGS = ("ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor")


def read_preprocess(folder: Path, size: tuple[int, int] | None, kind: str) -> Preprocess:
    """The preprocessing of a folder, for an encoder of that input size `(height, width)`; None takes what the file has.

    `kind` is the family's own class, for files that name none: one of `_DEFAULTS`. Raises
    CheckpointError for what is unknown or has no equal here.
    """
    try:
        return _preprocess(processor_values(folder), size, kind)
    except (FieldError, CheckpointError) as error:
        raise CheckpointError(f"{_file(folder)}: {error}") from None


def processor_values(folder: Path) -> dict[str, Any]:
    """An image processor's own settings, of either file that may hold them. Raises CheckpointError."""
    file = _file(folder)
    values = read_json(folder, file.name)
    if file.name == _OLDER:
        return values
    try:
        return fit(dict[str, Any], values.get("image_processor"), "image_processor")
    except FieldError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _file(folder: Path) -> Path:
    older, newer = folder / _OLDER, folder / _NEWER
    return newer if newer.is_file() and not older.is_file() else older


def sides(value: Any, name: str) -> tuple[int, int]:
    """Height and width of a size in one of transformers' forms: a number, a pair or a mapping."""
    if isinstance(value, dict) and "shortest_edge" in value and "longest_edge" not in value:
        value = value["shortest_edge"]
    elif isinstance(value, dict) and value.keys() == {"height", "width"}:
        value = [value["height"], value["width"]]
    elif isinstance(value, dict):
        raise CheckpointError(f"{name} of {' and '.join(sorted(value))} has no equal here")
    if not isinstance(value, list | tuple):
        value = [value, value]
    height, width = fit(tuple[Side, Side], value, name)
    return height, width


def _preprocess(values: dict[str, Any], size: tuple[int, int] | None, kind: str) -> Preprocess:
    named = values.get("image_processor_type") or values.get("feature_extractor_type") or kind
    kind = str(named)
    for ending in _ENDINGS:
        kind = kind.removesuffix(ending)
    if kind not in _DEFAULTS:
        raise CheckpointError(f"the image processor {named!r} is none of {', '.join(_DEFAULTS)}")
    values = _DEFAULTS[kind] | {key: value for key, value in values.items() if value is not None}
    if kind == "Pix2Struct":
        return _patches(values)
    for step in ("do_resize", "do_normalize", "do_rescale"):
        if not fit(bool, values.get(step, True), step):
            raise CheckpointError(f"{step} is false, which has no equal here")
    if abs(fit(float, values.get("rescale_factor", 1 / 255), "rescale_factor") - 1 / 255) > 1e-6:
        raise CheckpointError("rescale_factor is not 1/255")
    if kind in ("Donut", "Nougat"):
        return _padded(values, size, kind)
    resized, cropping = (
        values["size"],
        fit(bool, values.get("do_center_crop", False), "do_center_crop"),
    )
    # Of CLIP, whose class keeps an image's shape, a number is the shorter side.
    keeps_shape = "shortest_edge" in resized if isinstance(resized, dict) else kind == "CLIP"
    becomes = sides(resized, "size")
    cropped = sides(values.get("crop_size", resized), "crop_size") if cropping else becomes
    size = cropped if size is None else size
    if becomes != size or cropped != size:
        raise CheckpointError(
            f"images become {becomes[0]} x {becomes[1]}, cropped to {cropped[0]} x {cropped[1]}, but "
            f"the encoder reads {size[0]} x {size[1]}"
        )
    if keeps_shape and not cropping:
        raise CheckpointError("images keep their shape, which has no equal here")
    return Preprocess(
        size=size,
        mean=channels(Finite, values["image_mean"], "image_mean"),
        std=channels(Positive, values["image_std"], "image_std"),
        fit="crop" if keeps_shape else "squash",
        interpolation=_filter(values["resample"]),
    )


def _patches(values: dict[str, Any]) -> Preprocess:
    """Pix2Struct's: as many patches as there may be."""
    if not fit(bool, values.get("do_normalize", True), "do_normalize"):
        raise CheckpointError("do_normalize is false, which has no equal here")
    grey = (0.5, 0.5, 0.5)  # what is hidden in a picture is painted in it
    return Preprocess(
        size=sides(values["patch_size"], "patch_size"),
        mean=grey,
        std=grey,
        fit="patches",
        interpolation="bilinear",
        patches=fit(int, values["max_patches"], "max_patches"),
    )


def _padded(values: dict[str, Any], size: tuple[int, int] | None, kind: str) -> Preprocess:
    """Donut's and Nougat's: the whole image, or what is printed there, as a thumbnail in the middle of the input."""
    steps = [("do_thumbnail", True), ("do_pad", True), ("do_align_long_axis", False)]
    if kind == "Nougat":
        steps.append(("do_crop_margin", True))
    for step, wanted in steps:
        if fit(bool, values.get(step, wanted), step) != wanted:
            raise CheckpointError(f"{step} is {str(not wanted).lower()}, which has no equal here")
    # Older files have a list, of the width first.
    padded = values["size"]
    padded = sides(padded[::-1] if isinstance(padded, list) else padded, "size")
    size = padded if size is None else size
    if padded != size:
        raise CheckpointError(
            f"images become {padded[0]} x {padded[1]}, but the encoder reads {size[0]} x {size[1]}"
        )
    return Preprocess(
        size=size,
        mean=channels(Finite, values["image_mean"], "image_mean"),
        std=channels(Positive, values["image_std"], "image_std"),
        fit="page" if kind == "Nougat" else "pad",
        interpolation=_filter(values["resample"]),
    )


def channels(kind: Any, value: Any, name: str) -> tuple[float, float, float]:
    """One number for each of red, green and blue, from three of them, or from one that stands for all."""
    if not isinstance(value, list):
        value = [value]
    red, green, blue = fit(tuple[kind, kind, kind], value * 3 if len(value) == 1 else value, name)
    return red, green, blue


def _filter(code: Any) -> Interpolation:
    if fit(int, code, "resample") not in range(len(_FILTERS)):
        codes = ", ".join(f"{number} {name}" for number, name in enumerate(_FILTERS))
        raise CheckpointError(f"resample {code} is none of Pillow's codes: {codes}")
    return _FILTERS[code]

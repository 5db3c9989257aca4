"""A frozen encoder's patches, computed once: half precision on disk, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlm.images import ImageError, Preprocess, read_photo
from vlm.model.vision import VisionEncoder, folded

from ..data.atomic import replace_file
from ..data.records import DataError, ImageRef

# An interrupted build loses what it has encoded since the last shard of this many images.
SHARD = 512


def fingerprint(encoder: VisionEncoder) -> str:
    """Sixteen hex digits that change with the encoder's weights or its preprocessing."""
    digest = hashlib.sha256(repr(encoder.config).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureCache:
    """Patches by image key; a mirrored image has a row of its own.

    The folder holds `meta.json` and shards, each `N.npy` `(images, N, D)` in float16 with the names of its rows
    in `N.json`. It belongs to one encoder (see `fingerprint`); opening it with another raises DataError. An image
    that cannot be read has no row; `unreadable` maps its key to the reason.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        meta = json.loads((self.folder / "meta.json").read_text())
        self.grid: tuple[int, int] = tuple(meta["grid"])
        self.shape: tuple[int, int] = tuple(meta["shape"])  # (N, D)
        self.unreadable: dict[str, str] = {}
        self._rows: dict[str, tuple[np.ndarray, int]] = {}
        self._stamps: dict[str, str] = {}
        for index in sorted(self.folder.glob("[0-9]*.json")):
            entries = json.loads(index.read_text())
            shard = np.load(index.with_suffix(".npy"), mmap_mode="r") if entries["rows"] else None
            for row, (name, stamp) in enumerate(entries["rows"]):
                assert shard is not None
                self._rows[name] = (shard, row)
                self._stamps[name] = stamp
                self.unreadable.pop(name, None)
            self.unreadable |= entries["unreadable"]

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def has(self, image: ImageRef, flipped: bool) -> bool:
        """Whether the image is encoded as its file is now."""
        return self._stamps.get(_name(image.key, flipped)) == _stamp(image)

    def get(self, keys: Sequence[str], flipped: Sequence[bool] | None = None) -> Tensor:
        """Patches `(B, N, D)` in float16; `flipped[i]` asks for the mirrored image."""
        flipped = flipped or [False] * len(keys)
        rows = [self._rows[_name(key, flip)] for key, flip in zip(keys, flipped, strict=True)]
        return torch.from_numpy(np.stack([shard[row] for shard, row in rows]))


def build_features(
    folder: str | Path,
    encoder: VisionEncoder,
    images: Iterable[ImageRef],
    mirrored: Iterable[ImageRef] = (),
    device: torch.device | str = "cpu",
    batch_size: int = 4,
    workers: int = 1,
    rank: int = 0,
    world: int = 1,
    bf16: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Encode on `device` what a cache does not hold yet; with several processes each does its part.

    `images` are encoded as they are, `mirrored` also left-right reversed; with `bf16` the encoder computes in bfloat16.
    What an interrupted call has finished is not done again. Raises DataError when the folder belongs to another
    encoder or cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_meta(folder, encoder)
    except OSError as error:
        raise DataError(
            f"the feature cache {folder} cannot be written: {error.strerror}; name another folder with --cache"
        ) from error
    wanted = {_name(image.key, False): (image, False) for image in images}
    wanted |= {_name(image.key, True): (image, True) for image in mirrored}
    # Cut before what is done is left out: another process may have begun to write.
    own = list(wanted.values())[rank::world]
    cache = FeatureCache(folder)
    todo = [pair for pair in own if not cache.has(*pair)]
    number = 1 + max((int(path.stem) for path in folder.glob("[0-9]*.json")), default=-1)
    number += (rank - number) % world  # each process has numbers of its own
    encoder = folded(encoder).to(device)
    for start in range(0, len(todo), SHARD):
        part = todo[start : start + SHARD]
        kind_of_number = "bfloat16" if bf16 else "float32"
        say(
            f"encoding images {start + 1:,} to {start + len(part):,} of {len(todo):,} in {kind_of_number}"
        )
        kind = torch.device(device).type
        with torch.autocast(kind, torch.bfloat16) if bf16 else nullcontext():
            _write_shard(folder / f"{number:06d}.npy", part, encoder, device, batch_size, workers)
        number += world


def _write_meta(folder: Path, encoder: VisionEncoder) -> None:
    path = folder / "meta.json"
    mark = fingerprint(encoder)
    if not path.exists():
        with torch.inference_mode():
            pixels = torch.zeros(1, 3, *encoder.config.preprocess.size)
            patches, grid = encoder.eval()(pixels)
        meta = {"fingerprint": mark, "grid": list(grid), "shape": list(patches.shape[1:])}
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # each process may be the first
        temporary.write_text(json.dumps(meta))
        temporary.replace(path)
    elif json.loads(path.read_text())["fingerprint"] != mark:
        raise DataError(
            f"{folder} holds the features of another encoder or image size; name another folder or delete it."
        )


def _write_shard(
    path: Path,
    images: Sequence[tuple[ImageRef, bool]],
    encoder: VisionEncoder,
    device: torch.device | str,
    batch_size: int,
    workers: int,
) -> None:
    """Encode the images; the shard exists once its `.json` does, which is written last."""
    pixels = _Pixels(images, encoder.config.preprocess)
    loader = DataLoader(pixels, batch_size, num_workers=workers, collate_fn=list)
    encoded: list[np.ndarray] = []
    rows: list[tuple[str, str]] = []
    unreadable: dict[str, str] = {}
    pending = iter(images)
    for loaded in loader:
        for one, (image, flipped) in zip(loaded, pending):
            if isinstance(one, Tensor):
                rows.append((_name(image.key, flipped), _stamp(image)))
            else:
                unreadable[_name(image.key, flipped)] = one
        good = [one for one in loaded if isinstance(one, Tensor)]
        if good:
            with torch.inference_mode():
                stacked = torch.stack(good).to(device, memory_format=torch.channels_last)
                patches = encoder(stacked)[0].half().cpu()
            if not torch.isfinite(patches).all():
                raise DataError(
                    f"{encoder.config.name} gives values that half precision cannot hold; train it unfrozen "
                    "or with augment.crop, which needs no cache."
                )
            encoded.append(patches.numpy())
    index = {"rows": rows, "unreadable": unreadable}
    try:
        if encoded:
            replace_file(path, lambda file: np.save(file, np.concatenate(encoded)))
        content = json.dumps(index).encode()
        replace_file(path.with_suffix(".json"), lambda file: file.write(content))
    except OSError as error:
        raise DataError(
            f"the feature cache {path.parent} could not be written ({error}). Make room, or name another folder with "
            "--cache, and run the same command again: it goes on with what is missing"
        ) from error


class _Pixels(Dataset):
    """Pixels `(3, H, W)` of each image, or the reason why there are none."""

    def __init__(self, images: Sequence[tuple[ImageRef, bool]], preprocess: Preprocess):
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | str:
        ref, flipped = self.images[index]
        try:
            seen = read_photo(ref.read(), self.preprocess).seen
        except (ImageError, DataError) as error:
            return str(error)
        return self.preprocess.pixels(ImageOps.mirror(seen) if flipped else seen)


def _name(key: str, flipped: bool) -> str:
    return f"{key}|mirrored" if flipped else key


def _stamp(image: ImageRef) -> str:
    """Changes when the image's file does; its patches are then out of date."""
    if image.data is not None:
        return ""
    try:
        stat = os.stat(image.path)
    except OSError:
        return "missing"
    return f"{stat.st_size}/{stat.st_mtime_ns}"

"""`vlm caption-dataset`: captions of millions of images, on one machine or on a cluster of Ray.

The source is cut into parts, and each becomes one parquet file, whole or not at all. The footer of a part says what it
was made from, so a run reads the footers and does what is left; there is no other state. Nothing is shuffled.
"""

from __future__ import annotations

import io
import json
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from vlm.bulk.shards import (
    LISTING,
    DatasetError,
    Format,
    find_files,
    find_units,
    full_path,
    open_filesystem,
    read_unit,
)
from vlm.errors import how_to_install
from vlm.folder.pipeline import ahead
from vlm.options import Options

# `vlm --help` imports this and must come at once: what is heavy is imported inside the functions.
if TYPE_CHECKING:
    from PIL import Image

    from vlm.images.files import LeftOut

ATTEMPTS = 3  # of a part whose worker dies; then it is left to the next run
MAX_FAILED = 20  # parts; with more than these the fault is not theirs, and the run stops
REPORT_SECONDS = 60  # between lines of progress


@dataclass(frozen=True)
class Settings:
    """What decides the rows of a part; all parts of a folder have the same."""

    model: str | None
    openvino: bool
    precision: str
    search: Options
    column: str | None
    key: str | None


@dataclass(frozen=True)
class Job:
    """What a worker needs to know: `out` is a full path, and the worker has `cpus`, or a GPU, to itself.

    `device` is "cpu", "cuda" or "auto", which the cluster's resources decide. With OpenVINO, and in 8 or 16 bits,
    the model runs on the CPUs, though there be GPUs.
    """

    out: str
    format: Format
    settings: Settings
    batch_size: int
    cpus: int
    device: str


@dataclass(frozen=True)
class Outcome:
    """Images captioned and unreadable, parts left, and files or row groups that an earlier run did."""

    captioned: int
    unreadable: int
    left: int
    before: int


def caption_dataset(
    source: str,
    out: str,
    format: Format | None,
    column: str | None,
    key: str | None,
    model: str | None,
    device: str,
    openvino: bool,
    precision: str,
    search: Options,
    batch_size: int,
    part_size: int,
    workers: int | None,
    cpus: int,
    say: Callable[[str], None],
) -> Outcome:
    """Caption what is left of a source into the folder `out`; `say` is told now and then how far it is.

    Raises DatasetError where the request is wrong, and what `vlm.load` raises for a model.
    """
    missing = [name for name in ("ray", "fsspec", "pandas", "pyarrow") if not find_spec(name)]
    if missing:
        raise DatasetError(f"this needs {', '.join(missing)}; {how_to_install('ray')}")
    if device not in ("auto", "cpu", "cuda"):
        raise DatasetError(
            f"workers have CPUs or a GPU each: give auto, cpu or cuda, not {device!r}"
        )
    if device == "cuda" and openvino:
        raise DatasetError("OpenVINO runs models on the CPU here, not on cuda")
    if device == "cuda" and precision in ("bf16", "fp16", "int8"):
        raise DatasetError(f"{precision} is for models on x86 CPUs here, not on cuda")
    filesystem, inside = open_filesystem(out)
    out = full_path(filesystem, inside)
    chosen, files, left_out = find_files(source, format, out)
    if left_out:
        say(str(left_out))
    name, precision = _checked_model(model, openvino, precision, device)
    if chosen is not Format.parquet and (column is not None or key is not None):
        raise DatasetError(f"--column and --key are for parquet files; {source} has none")
    settings = Settings(name, openvino, precision, search, column, key)
    done = finished_units(out, settings)
    units = find_units(files, chosen, column, key)
    parts = list(cut(((name, n) for name, n in units if name not in done), part_size))
    captioned = unreadable = finished = members = 0
    if parts:
        filesystem.makedirs(inside, exist_ok=True)
        job = Job(out, chosen, settings, batch_size, cpus, device)
        start = reported = time.monotonic()
        for part in run(job, parts, workers):
            finished += 1
            captioned += part["images"] - part["errors"]
            unreadable += part["errors"]
            members += part["left_out"]
            now = time.monotonic()
            if now - reported > REPORT_SECONDS or finished == len(parts):
                reported = now
                rate = (captioned + unreadable) / (now - start)
                line = f"{finished} of {len(parts)} parts, {rate:.1f} images/s"
                say(line)
    if members:
        reasons = "hidden files, second images of samples, and samples without an image"
        say(f"left out {members} in shards: {reasons}")
    return Outcome(captioned, unreadable, len(parts) - finished, len(done))


def _checked_model(
    name: str | None, openvino: bool, precision: str, device: str
) -> tuple[str | None, str]:
    """The name under which workers find the model, and its precision, decided here so that all workers write alike.

    Raises CheckpointError or QuestionError where it cannot caption, and BackendError where OpenVINO cannot run it.
    """
    from vlm.loading import find_precision, load
    from vlm.weights.hub import find

    if precision == "auto":
        precision = (
            "float32" if device == "cuda" else str(find_precision("auto", "cpu", openvino)[0])
        )
    load(name, "cpu", openvino, precision).prompt(None)  # this machine's GPU is left to the workers
    if name is not None and os.path.isdir(name) and os.path.samefile(find(name), name):
        name = os.path.abspath(name)  # a worker's folder is not this one
    return name, precision


def finished_units(out: str, settings: Settings) -> set[str]:
    """The units of all parts in a folder. Raises DatasetError when they were made with other settings, or by others.

    What workers that were killed left half-written is removed.
    """
    import pyarrow
    import pyarrow.parquet

    filesystem, inside = open_filesystem(out)
    filesystem.invalidate_cache()
    if not filesystem.exists(inside):
        return set()

    def footer(path: str) -> dict[str, Any]:
        with filesystem.open(path, "rb") as file:
            try:
                table = pyarrow.parquet.ParquetFile(file)
            except pyarrow.ArrowInvalid as error:
                raise DatasetError(f"{path} is damaged, delete it: {error}") from None
        written = (table.schema_arrow.metadata or {}).get(b"vlm")
        if written is None:
            raise DatasetError(f"{path} is not of this command; give a folder that is new")
        return json.loads(written)

    paths = filesystem.ls(inside, detail=False)
    for path in paths:
        if path.rpartition("/")[2].startswith(".part-"):
            filesystem.rm_file(path)
    visible = [p for p in paths if p.endswith(".parquet") and "/." not in p]
    done: set[str] = set()
    with ThreadPoolExecutor(LISTING) as pool:
        for path, content in zip(visible, pool.map(footer, visible)):
            if content.get("settings") != asdict(settings):
                raise DatasetError(
                    f"{path} was made with other options, {content.get('settings')}; give a folder that is new"
                )
            done.update(content["units"])
    return done


def cut(units: Iterable[tuple[str, int | None]], size: int) -> Iterator[list[str]]:
    """Units in parts of `size` images or little more, in their order; one whose number is not known is a part."""
    part: list[str] = []
    images = 0
    for name, number in units:
        part.append(name)
        images += size if number is None else number
        if images >= size:
            yield part
            part, images = [], 0
    if part:
        yield part


def run(job: Job, parts: list[list[str]], workers: int | None) -> Iterator[dict[str, int]]:
    """Caption parts on Ray; yield how many images and errors each has, in the order in which they are done.

    A part that fails is logged and missing from what is yielded.
    """
    # Ray reports its use to its makers unless told otherwise; this must be known before it starts.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.WARNING)
    resources = ray.cluster_resources()
    compiled = job.settings.openvino or job.settings.precision != "float32"
    gpus = 0 if compiled or job.device == "cpu" else int(resources.get("GPU", 0))
    if job.device == "cuda" and not gpus:
        raise DatasetError("Ray has no GPUs here; leave out --device cuda")
    if workers is None:
        workers = gpus or int(resources["CPU"]) // job.cpus
    largest = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    if not gpus and largest < job.cpus:  # a worker that fits nowhere would be waited for
        raise DatasetError(f"no machine has {job.cpus} CPUs; give fewer with --cpus")
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = MAX_FAILED
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    attempts = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    pool = ray.data.ActorPoolStrategy(
        size=min(workers, len(parts)),
        max_tasks_in_flight_per_actor=1,  # a part that waits at one worker could be done by another
    )
    # A block a part: what is retried after a worker's death is that part alone. Restarts are Ray Data's default.
    rows = ray.data.from_items([{"units": part} for part in parts], override_num_blocks=len(parts))
    results = rows.map(
        cast("Any", PartWriter),  # Ray's types know functions alone
        fn_constructor_args=[replace(job, device="cuda" if gpus else "cpu"), attempts.remote()],
        compute=pool,
        num_cpus=None if gpus else job.cpus,  # Ray Data advises against both
        num_gpus=1 if gpus else None,
    )
    yield from results.iter_rows()


class Attempts:
    """An actor that counts how often a part was begun, since Ray Data retries it for ever."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, part: str) -> int:
        self.begun[part] += 1
        return self.begun[part]


class PartWriter:
    """A worker: loads the model once, and takes one part at a time from the source to its parquet file.

    Reading, captioning and writing are not stages of Ray Data each, because a part must be written whole: between
    stages Ray Data splits and joins blocks by their size, and only a shuffle would bring the rows of a part together
    again. In one process the pixels are never copied, and threads read ahead while the model works.
    """

    def __init__(self, job: Job, attempts: Any) -> None:
        import torch

        from vlm.loading import load

        torch.set_num_threads(job.cpus)
        self.job = job
        self.attempts = attempts
        settings = job.settings
        self.captioner = load(settings.model, job.device, settings.openvino, settings.precision)
        self.filesystem, self.folder = open_filesystem(job.out)

    def __call__(self, row: dict[str, Any]) -> dict[str, int]:
        import ray

        units = list(row["units"])
        if ray.get(self.attempts.begin.remote(part_name(units))) > ATTEMPTS:
            raise RuntimeError(
                f"{ATTEMPTS} workers died of the part that begins with {units[0]}; it is left out"
            )
        return self.make(units)

    def make(self, units: list[str]) -> dict[str, int]:
        """Caption a part and write it; return how many images and errors it has, and left out of its shards."""
        from vlm.images.files import LeftOut

        left_out = LeftOut()
        rows = self.caption(units, left_out)
        self.write(units, rows)
        errors = sum(row["error"] is not None for row in rows)
        return {"images": len(rows), "errors": errors, "left_out": left_out.total()}

    def caption(self, units: list[str], left_out: LeftOut) -> list[dict[str, Any]]:
        """A row for each image, in order."""
        rows: list[dict[str, Any]] = []
        batch: list[tuple[dict[str, Any], Image.Image]] = []

        def finish() -> None:
            if batch:
                images = self.captioner.encode_all([picture for _, picture in batch])
                answers = self.captioner.write(images, None, self.job.settings.search)
                for (row, _), answer in zip(batch, answers):
                    row.update(caption=answer.text, score=answer.score)
                batch.clear()

        with ThreadPoolExecutor(2 * self.job.cpus + 2) as pool:
            for row, picture in ahead(
                pool, self.read, self.items(units, left_out), 2 * self.job.batch_size
            ):
                rows.append(row)
                if picture is not None:
                    batch.append((row, picture))
                if len(batch) == self.job.batch_size:
                    finish()
            finish()
        return rows

    def items(
        self, units: list[str], left_out: LeftOut
    ) -> Iterator[tuple[str, str | None, Callable[[], bytes]]]:
        """The file, the key and the bytes of each image."""
        settings = self.job.settings
        for unit in units:
            file = unit.rpartition("#")[0] if self.job.format is Format.parquet else unit
            for key, load in read_unit(
                unit, self.job.format, settings.column, settings.key, left_out
            ):
                yield file, key, load

    def read(
        self, item: tuple[str, str | None, Callable[[], bytes]]
    ) -> tuple[dict[str, Any], Image.Image | None]:
        """A row without its caption, and the picture in the model's size, so that those that wait need little room."""
        from vlm.images import ImageError

        source, key, load = item
        row = {"source": source, "key": key, "caption": None, "score": None, "error": None}
        try:
            return row, self.captioner.read(load()).seen
        except ImageError as error:
            return row | {"error": str(error)}, None

    def write(self, units: list[str], rows: list[dict[str, Any]]) -> None:
        """Write a part under a name that no reader takes for one, then rename it."""
        import pyarrow
        import pyarrow.parquet

        content = json.dumps({"units": units, "settings": asdict(self.job.settings)})
        text = ("source", "key", "caption", "error")
        fields = {field: pyarrow.string() for field in text} | {"score": pyarrow.float32()}
        order = ("source", "key", "caption", "score", "error")
        schema = pyarrow.schema([(f, fields[f]) for f in order], metadata={"vlm": content})
        buffer = io.BytesIO()
        # A file name need not be UTF-8, which parquet's text is.
        written = [{k: _utf8(v) if k in text else v for k, v in row.items()} for row in rows]
        table = pyarrow.Table.from_pylist(written, schema)
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        name = part_name(units)
        unfinished = f"{self.folder}/.{name}.{uuid.uuid4().hex}"
        self.filesystem.pipe_file(unfinished, buffer.getvalue())
        self.filesystem.mv(unfinished, f"{self.folder}/{name}")


def _utf8(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def part_name(units: list[str]) -> str:
    """The file of a part: equal units, equal name, so that a part which is done twice is there once."""
    return f"part-{sha256(json.dumps(units).encode()).hexdigest()[:16]}.parquet"

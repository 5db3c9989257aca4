from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pytest

from vlm.bulk.shards import (
    DatasetError,
    Format,
    find_files,
    find_units,
    full_path,
    open_filesystem,
    read_unit,
)
from vlm.images import ImageError
from vlm.images.files import LeftOut

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def write_table(path: Path, table: dict[str, list[object]], rows_a_group: int = 2) -> Path:
    parquet.write_table(pyarrow.table(table), path, row_group_size=rows_a_group)
    return path


def contents(
    path: Path | str, format: Format, column: str | None = None, key: str | None = None
) -> list[tuple[str | None, bytes | str]]:
    """Keys and bytes of all images below a path, or what is said of those that are none."""
    _, files, _ = find_files(str(path), format, out="/nowhere")
    found: list[tuple[str | None, bytes | str]] = []
    for unit, _ in find_units(files, format, column, key):
        for name, load in read_unit(unit, format, column, key, LeftOut()):
            try:
                found.append((name, load()))
            except ImageError as error:
                found.append((name, str(error)))
    return found


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.webp", ".hidden.jpg", ".cache/d.jpg", "notes.txt"):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_bytes(name.encode())
    return tmp_path / "src"


def test_a_folder_is_its_images_in_order(folder):
    format, files, left_out = find_files(str(folder), None, out="/nowhere")
    assert str(left_out) == "left out 3: 1 of other kinds (.txt), 2 hidden"
    assert format is Format.folder
    assert files == [str(folder / name) for name in ("a.PNG", "b.jpg", "sub/c.webp")]
    assert list(find_units(files, format, None, None)) == [(file, 1) for file in files]
    assert contents(folder, format)[2] == (files[2], b"sub/c.webp")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("src/*.jpg", ["b.jpg"]),
        ("src/**/*.*", ["a.PNG", "b.jpg", "sub/c.webp"]),
        ("src/sub", ["sub/c.webp"]),
        ("src/b.jpg", ["b.jpg"]),
    ],
)
def test_a_source_is_a_file_a_folder_or_a_glob(folder, source, names, monkeypatch):
    monkeypatch.chdir(folder.parent)
    _, files, _ = find_files(source, None, out="/nowhere")
    assert files == [str(folder / name) for name in names]


def test_a_folder_whose_own_path_is_hidden_is_read(folder):
    hidden = folder.rename(folder.with_name(".src"))
    assert len(find_files(str(hidden), None, out="/nowhere")[1]) == 3


@pytest.mark.parametrize("name", ["notes a::b", "photos [2020]", "a*b?", "zip::x", "file:"])
def test_signs_of_globs_and_chains_in_names(folder, name, monkeypatch):
    monkeypatch.chdir(folder.parent)
    odd = folder.rename(folder.with_name(name))
    (odd / "sub").rename(odd / "sub::2 [x]")
    names = ["a.PNG", "b.jpg", "sub::2 [x]/c.webp"]
    for source, expected in {
        name: names,
        str(odd): names,
        f"{odd}/**/*": names,
        f"{odd}/sub::2 [x]": names[2:],
        f"{odd}/sub::2 [x]/*": names[2:],
        f"{odd}/b.jpg": ["b.jpg"],
        f"{odd}/[ab].*": ["a.PNG", "b.jpg"],
    }.items():
        assert find_files(source, None, "/nowhere")[1] == [str(odd / name) for name in expected]
    assert contents(odd, Format.folder)[2] == (str(odd / names[2]), b"sub/c.webp")
    with pytest.raises(DatasetError, match="no such file or folder"):
        find_files(f"{odd}/a::b/gone", None, "/nowhere")


def test_any_filesystem_of_fsspec(folder):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/photos/sub/1.jpg": b"one", "/photos/.x/2.jpg": b"", "/photos/3.txt": b""})
    try:
        assert contents("memory://photos", Format.folder) == [
            ("memory:///photos/sub/1.jpg", b"one")
        ]
        assert len(find_files("memory://photos/*/*.jpg", None, "/nowhere")[1]) == 1
        left_out = find_files("memory://photos", None, "/nowhere")[2]
        assert str(left_out) == "left out 2: 1 of other kinds (.txt), 1 hidden"
        filesystem, inside = open_filesystem("memory://photos")
        assert full_path(filesystem, inside) == "memory:///photos"
    finally:
        memory.rm("/photos", recursive=True)


def test_images_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("in/1.jpg", b"zipped")
        archive.writestr("in/notes.txt", b"")
    for place in ("", "in", "in/*.jpg"):
        source = f"zip://{place}::{tmp_path}/photos.zip"
        path = f"zip://in/1.jpg::{tmp_path}/photos.zip"
        assert contents(source, Format.folder) == [(path, b"zipped")]
    left_out = find_files(f"zip://::{tmp_path}/photos.zip", None, "/nowhere")[2]
    assert str(left_out) == "left out 1: 1 of other kinds (.txt)"


def test_the_format_is_that_of_the_files(tmp_path):
    write_tar(tmp_path / "tars" / "0.tar", {"0.jpg": b""})
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / "0.parquet", {"image": [b""]})
    write_table(tmp_path / "tables" / "_metadata.parquet", {"image": [b""]})
    assert find_files(str(tmp_path / "tars"), None, "/nowhere")[0] is Format.webdataset
    found = find_files(str(tmp_path / "tables"), None, "/nowhere")
    assert found[:2] == (Format.parquet, [str(tmp_path / "tables" / "0.parquet")])
    with pytest.raises(DatasetError, match="parquet and webdataset; choose with --format"):
        find_files(str(tmp_path), None, "/nowhere")
    assert find_files(str(tmp_path), None, str(tmp_path / "tables"))[0] is Format.webdataset


@pytest.mark.parametrize(
    ("source", "format", "says"),
    [
        ("missing", None, "missing: no such file or folder"),
        ("empty", None, "empty: no image, parquet file or WebDataset shard"),
        ("*.tar", None, r"\*.tar: no image, parquet file"),
        ("src", Format.parquet, "src: no parquet there"),
        ("nope://src", None, "nope://src: Protocol not known"),
    ],
)
def test_a_source_without_images_is_refused(folder, source, format, says, monkeypatch):
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    with pytest.raises(DatasetError, match=says):
        find_files(source, format, out="/nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_not_left_out(folder):
    (folder / "sub").chmod(0)
    with pytest.raises(PermissionError):
        find_files(str(folder), None, out="/nowhere")
    (folder / "sub").chmod(0o755)


def test_a_file_that_is_gone_is_an_image_that_cannot_be_read(folder):
    ((key, load),) = read_unit(str(folder / "gone.jpg"), Format.folder, None, None, LeftOut())
    assert key == str(folder / "gone.jpg")
    with pytest.raises(ImageError, match=r"gone.jpg cannot be read: No such file"):
        load()


@pytest.mark.parametrize(
    ("names", "keys", "left_out"),
    [
        (["p/0.JPG", "p/0.txt", "p/1.json", "p/1.png"], ["p/0", "p/1"], ""),
        (["1.png", "1.webp"], ["1"], "1 second in their sample"),
        (["0.depth.png", "0.jpg", "0.seg.png"], ["0"], "2 second in their sample"),
        # Of another name than the sample's text: no picture of its own.
        (["2.seg.png", "2.txt"], [], "1 without an image in their sample"),
        (["3.txt", "3.psd", "4.jpg"], ["4"], "1 without an image in their sample"),
        (["IMG.2020.01.01.jpg", "IMG.2020.01.02.jpg"], ["IMG.2020.01.01", "IMG.2020.01.02"], ""),
        (["walk 2.0 (edit).jpg", "a.b.jpg", "a.b.json"], ["walk 2.0 (edit)", "a.b"], ""),
        (["a.b/1.jpg", "./c.d/2.jpg"], ["a.b/1", "./c.d/2"], ""),
        ([".jpg", "._5.jpg", "5.jpg", "p/._6.txt"], ["5"], "3 hidden"),
        ([f"all.{i:03}.jpg" for i in range(99)], [f"all.{i:03}" for i in range(99)], ""),
    ],
)
def test_the_samples_of_a_shard(tmp_path, names, keys, left_out):
    path = write_tar(tmp_path / "0.tar", {name: name.encode() for name in names})
    counted = LeftOut()
    found = list(read_unit(str(path), Format.webdataset, None, None, counted))
    assert [key for key, _ in found] == keys
    for key, load in found:
        assert load().decode().lower().removesuffix(".jpg").removesuffix(".png") == key.lower()
    assert str(counted).partition(": ")[2] == left_out
    assert list(find_units([str(path)], Format.webdataset, None, None)) == [(str(path), None)]


@pytest.mark.parametrize("damage", ["in an image", "in a header", "between files", "other bytes"])
def test_a_damaged_shard_is_used_up_to_the_damage(tmp_path, damage):
    """A file is a header of 512 bytes and, here, 1,024 bytes."""
    path = write_tar(tmp_path / "0.tar", {f"{i}.jpg": bytes([i + 1]) * 1024 for i in range(4)})
    data = path.read_bytes()
    path.write_bytes(
        {
            "in an image": data[: 2 * 1536 + 600],
            "in a header": data[: 2 * 1536 + 100],
            "between files": data[: 2 * 1536],
            "other bytes": data[: 2 * 1536] + b"x" * 1536 + data[3 * 1536 :],
        }[damage]
    )
    *good, (key, said) = contents(tmp_path, Format.webdataset)
    assert good == [("0", b"\1" * 1024), ("1", b"\2" * 1024)]
    assert key is None
    assert said.startswith(f"{path} is damaged from here on: ")


@pytest.mark.parametrize("data", [b"", b"not a tar file" * 100])
def test_what_is_no_shard_says_so(tmp_path, data):
    (tmp_path / "0.tar").write_bytes(data)
    ((key, said),) = contents(tmp_path, Format.webdataset)
    assert key is None
    assert said.startswith(f"{tmp_path / '0.tar'} is damaged from here on: ")


def test_a_parquet_file_is_read_by_row_groups(tmp_path):
    path = write_table(tmp_path / "a#1.parquet", {"image": [b"0", b"1", b"2"], "url": list("xyz")})
    units = list(find_units([str(path)], Format.parquet, None, None))
    assert units == [(f"{path}#0", 2), (f"{path}#1", 1)]
    assert contents(path, Format.parquet) == [("0", b"0"), ("1", b"1"), ("2", b"2")]
    named = contents(path, Format.parquet, key="url")
    assert named == [("x", b"0"), ("y", b"1"), ("z", b"2")]


def test_columns_that_hold_images(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"a file")
    outside = tmp_path / "2.jpg"
    outside.write_bytes(b"outside")
    structs = [
        {"bytes": b"inside", "path": "x.jpg"},
        {"bytes": None, "path": "photos/1.jpg"},
        {"bytes": None, "path": None},
    ]
    paths = ["photos/1.jpg", str(outside), None]
    table = {"data": [b"0", b"1", b"2"], "hf": structs, "file": paths, "n": [1, 2, 3]}
    path = write_table(tmp_path / "all.parquet", table)

    def values(column):
        return [value for _, value in contents(path, Format.parquet, column)]

    assert values("data") == [b"0", b"1", b"2"]
    assert values("hf") == [b"inside", b"a file", "the row has no image"]
    assert values("file") == [b"a file", b"outside", "the row has no image"]
    with pytest.raises(DatasetError, match="'n' holds int64, neither bytes of images nor paths"):
        values("n")
    with pytest.raises(DatasetError, match="no column 'photo'; it has data, hf, file, n"):
        values("photo")
    with pytest.raises(DatasetError, match="name the column of the images with --column"):
        values(None)
    with pytest.raises(DatasetError, match="no column 'id'"):
        contents(path, Format.parquet, "data", key="id")
    one = write_table(tmp_path / "one.parquet", {"n": [1], "data": [b"0"]})
    assert contents(one, Format.parquet) == [("0", b"0")]


def test_a_damaged_parquet_file_is_used_up_to_the_damage(tmp_path):
    data = [bytes([65 + i]) * 5000 for i in range(6)]
    path = tmp_path / "0.parquet"
    table = pyarrow.table({"image": data})
    parquet.write_table(table, path, row_group_size=2, compression="snappy", use_dictionary=False)
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + 60] = b"\xff" * 60
    path.write_bytes(raw)
    found = contents(path, Format.parquet)
    assert [key for key, _ in found] == ["0", "1", None, "4", "5"]
    assert found[2][1].startswith(f"{path}, row group 1, is damaged from here on: ")
    path.write_bytes(raw[:-10])
    ((key, said),) = contents(path, Format.parquet)
    assert key is None
    assert said.startswith(f"{path}, row group 0, is damaged from here on: ")


def test_storage_that_does_not_answer_is_no_damage(tmp_path, monkeypatch):
    """Another run may read it, so it must not become a row that is never done again."""
    path = write_table(tmp_path / "0.parquet", {"image": [b"0"]})

    def silent(*_, **__):
        raise TimeoutError

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", silent)
    with pytest.raises(TimeoutError):
        contents(path, Format.parquet)
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", silent)
    ((_, load),) = read_unit("/x.jpg", Format.folder, None, None, LeftOut())
    with pytest.raises(TimeoutError):
        load()


@pytest.mark.parametrize("image", ["gopher://x/y.jpg", "", "a\0b"])
def test_a_row_whose_path_leads_nowhere_is_one_broken_image(tmp_path, image):
    (tmp_path / "ok.jpg").write_bytes(b"ok")
    path = write_table(tmp_path / "a.parquet", {"image": ["ok.jpg", image, "ok.jpg"]})
    (_, first), (_, broken), (_, last) = contents(path, Format.parquet)
    assert first == last == b"ok"
    assert isinstance(broken, str)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    ((_, broken),) = contents(tmp_path, Format.folder)
    assert "not a regular file" in broken

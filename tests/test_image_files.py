"""Every image that a path, a folder or a glob stands for is taken once, and what is left out is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vlm.images.files import LeftOut, find_images, is_image

NATURAL = ["2.jpg", "10.PNG", "forest.png/0.jfif", "sub/1.webp", "sub/deeper/a.bmp", "x.jpeg"]


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder to be in, with images and others; its own name has the signs of globs and chains."""
    folder = touch(tmp_path / "photos [2020]::a *", *NATURAL, "notes.txt", "a.psd")
    touch(folder, ".hidden.jpg", ".thumbnails/t.jpg")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("a.jpg", True), ("a.JFIF", True), ("a.jpe", True), ("a.heic", True), ("a.b.avif", True)),
        *(
            ("photos/a.png", True),
            ("a.psd", False),
            ("a.eps", False),
            ("jpg", False),
            (".jpg", False),
        ),
        *(("a.jpg.txt", False), ("a.jpg/b", False)),
    ],
)
def test_the_name_of_an_image(name, expected):
    assert is_image(name) is expected


@pytest.mark.parametrize("argument", [".", "**/*.*", "**", "./**/*"])
@pytest.mark.parametrize("inside", [True, False])
def test_folders_and_globs_are_read_to_the_bottom_in_natural_order(argument, inside, photos):
    place = "" if inside else f"{photos}/"
    files, problems, left_out = find_images([f"{place}{argument}"])
    assert [os.path.relpath(file, photos) for file in files] == NATURAL
    assert problems == []
    assert str(left_out) == "left out 4: 2 of other kinds (.psd, .txt), 2 hidden"


def test_arguments_keep_their_order_and_what_exists_is_a_path(photos):
    touch(photos, "a[1].jpg", "b*.jpg", "c::d.jpg", "e://f.jpg")
    given = [
        "x.jpeg",
        "notes.txt",
        "sub",
        "a[1].jpg",
        "b*.jpg",
        "c::d.jpg",
        "e://f.jpg",
        "[ax]*.j*",
    ]
    files, problems, _ = find_images(given)
    assert files == [
        *["x.jpeg", "notes.txt", "sub/1.webp", "sub/deeper/a.bmp", "a[1].jpg", "b*.jpg"],
        *["c::d.jpg", "e://f.jpg", "a[1].jpg", "x.jpeg"],
    ]
    assert problems == []


def test_numbers_in_names_count_as_numbers(tmp_path):
    names = ["2.jpg", "10.jpg", "a2b9.jpg", "a2b10.jpg", "a10b1.jpg", "²٣.jpg"]
    touch(tmp_path, *reversed(names))
    assert [Path(file).name for file in find_images([str(tmp_path)]).files] == names


@pytest.mark.parametrize("argument", ["photos", "photos/**", "photos/**/*.jpg", "p*/**/*.jpg"])
def test_linked_folders_are_read_once_and_without_end(argument, tmp_path, monkeypatch):
    monkeypatch.chdir(touch(tmp_path, "photos/a/1.jpg", "photos/b/2.jpg", "elsewhere/3.jpg"))
    for link, target in {
        "photos/0": "a",  # read as photos/a, its own name
        "photos/linked": "../elsewhere",
        "photos/b/again": "../../elsewhere",
        "photos/a/up": "..",
        "photos/out": "../..",  # around the folder that is asked for
        "photos/a/here": ".",
    }.items():
        os.symlink(target, link)
    os.symlink("self.jpg", "photos/self.jpg")
    files, problems, left_out = find_images([argument])
    photos = {"photos/a/1.jpg", "photos/b/2.jpg", "photos/self.jpg"}
    assert set(files) - photos in ({"photos/linked/3.jpg"}, {"photos/b/again/3.jpg"})
    assert photos < set(files)
    assert problems == []
    assert str(left_out) == "left out 5: 5 linked again"
    assert find_images(["photos/a/up/a"]).files == ["photos/a/up/a/1.jpg"]  # for it was asked for


def test_arguments_without_images_are_problems(photos):
    touch(photos, "texts/a.txt")
    gone = f"{photos}/gone.jpg"
    files, problems, left_out = find_images([gone, "texts", "*.tiff"])
    assert files == []
    assert problems == [f"{gone}: no such file", "texts: no image there", "*.tiff: no image there"]
    assert str(left_out) == "left out 1: 1 of other kinds (.txt)"
    assert not find_images(["2.jpg"]).left_out


def test_many_kinds_are_cut_short():
    left_out = LeftOut({f".{kind}": 9 - i for i, kind in enumerate("abcdefg")})
    left_out.add("README")
    assert str(left_out) == "left out 43: 43 of other kinds (.a, .b, .c, .d, .e, ...)"

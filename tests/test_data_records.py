from __future__ import annotations

import pytest

from training.data.records import DataError, ImageRef


def test_a_file_reads_its_bytes_and_has_an_absolute_key(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"picture")
    monkeypatch.chdir(tmp_path)
    assert ImageRef("a.png").read() == b"picture"
    assert ImageRef("a.png").key == ImageRef(str(tmp_path / "a.png")).key


def test_equal_bytes_in_memory_have_one_key():
    assert ImageRef("row 1", data=b"x").key == ImageRef("row 2", data=b"x").key
    assert ImageRef("row 1", data=b"x").key != ImageRef("row 1", data=b"y").key


def test_missing_file_and_member_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.png cannot be read"):
        ImageRef(str(tmp_path / "gone.png")).read()
    with pytest.raises(DataError, match=r"gone.tar::a.png cannot be read"):
        ImageRef(str(tmp_path / "gone.tar"), member="a.png").read()
    (tmp_path / "torn.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match=r"torn.tar::a.png cannot be read"):
        ImageRef(str(tmp_path / "torn.tar"), member="a.png").read()

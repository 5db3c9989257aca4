"""Sources read for a run: grouped by image, split honestly, marked, and rid of what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import draw_photos, small_recipe

from training.data.readers import READERS
from training.data.records import DataError, ImageRef, Record
from training.recipe.recipe import RecipeError, Source
from training.recipe.sources import Group, drop_unreadable, group_by_image, read_data

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_photos(tmp_path_factory.mktemp("photos") / "all")


def test_records_of_one_image_are_one_group_in_order() -> None:
    a, b = ImageRef("a.png"), ImageRef("b.png")
    secret = Record(a, (), question="what is the test server's answer?")
    records = [Record(a, ("one",)), Record(b, ("two",)), Record(a, ("yes",), "is it?"), secret]
    groups = group_by_image(records, Source("x"))
    assert [group.image for group in groups] == [a, b]
    assert list(groups[0].texts) == ["one", "is it?", "yes"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a dog on the left", True),
        ("the RIGHTMOST cup", True),
        ("a right-hand glove", True),
        ("a bright cup", False),
        ("it is cleft", False),
    ],
)
def test_a_side_is_named_by_a_word_that_begins_with_it(text: str, named: bool) -> None:
    assert (
        Group(ImageRef("a"), (Record(ImageRef("a"), (text,)),), Source("x")).names_a_side is named
    )


def test_the_folder_stands_for_data_in_paths(photos: Path) -> None:
    data = read_data(small_recipe("{data}/all"), photos.parent)
    assert (len(data.all_train), len(data.all_dev)) == (32, 4)
    assert data.reports[0].good == 36


def test_questions_are_made_where_several_captions_agree(tmp_path: Path) -> None:
    captions = {"a": ["A dog runs.", "A brown dog.", "The dog plays."], "b": ["A cat sits."] * 3}
    for name, texts in captions.items():
        (tmp_path / f"{name}.png").write_bytes(b"")
        (tmp_path / f"{name}.txt").write_text("\n".join(texts))
    (tmp_path / "c.png").write_bytes(b"")  # of what a single caption leaves out nobody knows
    (tmp_path / "c.txt").write_text("A horse stands.")
    source = {"path": str(tmp_path), "format": "kohya", "split": "all", "dev": None}
    learnt = {"questions": True, "broken": 1.0}
    recipe = small_recipe(sources=[source | learnt], validation={"metric": "last", "images": 0})
    groups = read_data(recipe, tmp_path).all_train
    assert {Path(group.image.path).name for group in groups} == {"a.png", "b.png"}
    asked = {(r.question, r.texts) for group in groups for r in group.records}
    assert all(question for question, _ in asked)
    assert ("yes",) in {texts for _, texts in asked}


def test_rewards_need_captions_of_two_images(photos: Path) -> None:
    scst = {"init": "small", "objective": "scst", "label_smoothing": 0.0}
    source = {"path": str(FIXTURES / "easy_vqa")}
    with pytest.raises(RecipeError, match="scst needs two training images that differ"):
        read_data(small_recipe(sources=[source], **scst), photos)
    assert read_data(small_recipe(photos, **scst), photos).all_train


def test_a_dev_share_takes_images_of_the_split_by_name(photos: Path) -> None:
    source = {"path": str(photos), "format": "kohya", "dev_share": 0.3}
    data = read_data(small_recipe(sources=[source]), photos)
    train, dev = ({g.image.key for g in groups} for groups in (data.all_train, data.all_dev))
    assert not train & dev
    assert len(train | dev) == 32
    assert 3 <= len(dev) <= 16


def test_an_image_to_learn_from_is_never_validated_on(photos: Path) -> None:
    everything = {"path": str(photos), "format": "kohya", "split": "all", "dev": None}
    usual = {"path": str(photos), "format": "kohya"}
    recipe = small_recipe(sources=[everything, usual], validation={"metric": "last"})
    assert read_data(recipe, photos).all_dev == []


def test_a_recipe_that_selects_needs_dev_images(photos: Path) -> None:
    source = {"path": str(photos), "format": "kohya", "dev": None}
    with pytest.raises(RecipeError, match="needs dev images and no source has any"):
        read_data(small_recipe(sources=[source]), photos)
    usual = {"path": str(photos), "format": "kohya"}
    asked = small_recipe(sources=[usual], validation={"metric": "accuracy"})
    with pytest.raises(RecipeError, match="accuracy needs questions"):
        read_data(asked, photos)


def test_a_missing_source_is_a_clear_error(photos: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        read_data(small_recipe("{data}/nowhere"), photos)


def test_the_fingerprint_follows_names_and_texts_but_not_the_folder(tmp_path: Path) -> None:
    marks = []
    for name in ("here", "there"):
        draw_photos(tmp_path / name, 20)
        marks.append(read_data(small_recipe(tmp_path / name), tmp_path).fingerprint())
    (tmp_path / "there" / "003.txt").write_text("another caption")
    marks.append(read_data(small_recipe(tmp_path / "there"), tmp_path).fingerprint())
    assert marks[0] == marks[1] != marks[2]


def test_unreadable_images_are_left_out_and_named(photos: Path) -> None:
    source = {"path": str(photos), "format": "kohya", "broken": 0.1}
    data = read_data(small_recipe(sources=[source]), photos)
    lost = data.all_train[3].image
    drop_unreadable(data, {lost.key: "it is damaged", "of no source": "whatever"})
    assert lost not in [group.image for group in data.all_train]
    assert "1 skipped" in data.reports[0].summary()
    assert f"{lost}: it is damaged" in data.reports[0].summary()
    with pytest.raises(DataError, match="more than the accepted 10%"):
        drop_unreadable(data, {g.image.key: "it is damaged" for g in data.all_train})


@pytest.mark.parametrize("name", sorted(set(READERS) - {"datasets", "webdataset"}))
def test_every_format_can_stand_in_a_recipe(name: str) -> None:
    path = FIXTURES / ("blip/vqa_train.json" if name == "blip" else name)  # its folder has two
    split = "val" if name == "coco" else "train"  # its fixture has no other
    source = {"path": str(path), "format": name, "split": split, "dev": None, "broken": 1.0}
    recipe = small_recipe(sources=[source], validation={"metric": "last"})
    groups = read_data(recipe, path).all_train
    assert groups
    assert all(list(group.texts) for group in groups)


@pytest.mark.parametrize(("metric", "images"), [("CIDEr", 2), ("accuracy", 1)])
def test_what_the_first_dev_images_cannot_measure_is_told(
    tmp_path: Path, metric: str, images: int
) -> None:
    """All captions are alike but for one of the last two dev images; the other has a question."""
    folder = draw_photos(tmp_path / "photos", 30)
    rows = [{"image": f"{i:03d}.png", "caption": "a shape"} for i in range(30)]
    (folder / "a_train.json").write_text(json.dumps(rows[:20]))
    rows[29] = {"image": "029.png", "question": "what?", "answer": ["red"], "question_id": 1}
    rows[28]["caption"] = "a circle"
    for split, part in (("val", rows[20:28]), ("test", rows[20:])):
        (folder / f"a_{split}.json").write_text(json.dumps(part))
    source = {"path": str(folder), "format": "blip", "images": str(folder), "broken": 0.5}

    def read(dev: str, images: int) -> object:
        validation = {"metric": metric, "images": images}
        recipe = small_recipe(sources=[{**source, "dev": dev}], validation=validation)
        return read_data(recipe, folder)

    with pytest.raises(RecipeError, match=f"{metric} needs"):
        read("val", 500)
    assert read("test", 500)
    with pytest.raises(RecipeError, match=rf"{metric} needs .* the first {images} dev images"):
        read("test", images)

"""What a photo's metadata says, as sentences: planted dates, places, titles and tags, sound and broken."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vlm.captioner import Captioner
from vlm.cli import app
from vlm.documents.passages import Passage
from vlm.folder.gazetteer import towns_near
from vlm.folder.metadata_passages import read_metadata
from vlm.folder.photo_metadata import ALT_TEXT, Place, missing, write_metadata
from vlm.folder.taken import date_in_words, position
from vlm.model.config import DocumentsConfig
from vlm.model.model import VisionLanguageModel
from vlm.weights.store import save_checkpoint

GPS = "Exif.GPSInfo.GPS"


def gps(latitude: str, north: str | None, longitude: str, east: str | None) -> dict[str, str]:
    parts = {
        "Latitude": latitude,
        "LatitudeRef": north,
        "Longitude": longitude,
        "LongitudeRef": east,
    }
    return {GPS + name: value for name, value in parts.items() if value is not None}


GHENT = gps("51/1 3/1 1530/100", "N", "3/1 43/1 3/1", "E")


@pytest.fixture
def plant(tmp_path):
    """Make a photo with this metadata."""
    import pyexiv2

    def make(exif=None, iptc=None, xmp=None, encoding="utf-8", name="IMG_0001.jpg") -> Path:
        data = BytesIO()
        Image.new("RGB", (64, 48)).save(data, "JPEG")
        with pyexiv2.ImageData(data.getvalue()) as image:
            image.modify_exif(exif or {}, encoding=encoding)
            image.modify_iptc(iptc or {}, encoding=encoding)
            image.modify_xmp(xmp or {}, encoding=encoding)
            folder = tmp_path / "Holiday_in-Ghent 2024-05-03"
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(image.get_bytes())
        return folder / name

    return make


def said(photo: Path) -> dict[str, str]:
    found = read_metadata(photo)
    assert found.problems == []
    return {passage.source: passage.text for passage in found.passages}


def test_each_part_is_a_sentence_with_a_source_of_its_own(plant):
    photo = plant(
        GHENT | {"Exif.Photo.DateTimeOriginal": "2024:05:03 14:05:00"},
        {"Iptc.Application2.Keywords": ["mill", "water"], "Iptc.Application2.City": "Gent"},
        {
            "Xmp.dc.title": {'lang="de"': "Die Mühle", 'lang="x-default"': "The old mill"},
            "Xmp.dc.subject": ["mill", "größe"],
            "Xmp.dc.description": {'lang="x-default"': "Ida at the mill. It was built in 1823."},
            "Xmp.iptcExt.PersonInImage": ["Ida", "Emil", "Jo"],
        },
        name="old_mill-at_dusk.jpg",
    )
    assert said(photo) == {
        "the photo's place": "The photo's place is Gent. The photo was taken near Gent, Flanders, Belgium.",
        "the photo's date": "The photo was taken on 3 May 2024 at 14:05.",
        "the photo's title": "The photo's title is The old mill.",
        "the photo's people": "The photo shows Ida, Emil and Jo.",
        "the photo's tags": "The photo is tagged mill, größe and water.",
        "the photo's description": "Ida at the mill. It was built in 1823.",
        "the folder's name": "The photo is in a folder called Holiday in Ghent 2024-05-03.",
        "the file's name": "The photo's file is called old mill at dusk.",
    }


@pytest.mark.parametrize(
    ("where", "place"),
    [
        (
            gps("33/1 51/1 25/1", "S", "151/1 12/1 55/1", "E"),
            "The Rocks, New South Wales, Australia",
        ),
        (gps("54/1 48/1 0/1", "S", "68/1 18/1 0/1", "W"), "Ushuaia, Tierra del Fuego, Argentina"),
        (gps("4078/100", "N", "7397/100", "W"), "Manhattan, New York, United States"),
        (gps("60/1 2334/100", "n", "5/1 192/10", "e"), "Bergen, Vestland, Norway"),
        (
            gps("46/1 24/1 4679/100", "S", "168/1 20/1 60/1", "E"),
            "Richmond, Southland, New Zealand",
        ),
        ({"Xmp.exif.GPSLatitude": "33,55.2S", "Xmp.exif.GPSLongitude": "18,25,12E"}, "Cape Town"),
    ],
)
def test_the_place_of_a_position(plant, where, place):
    exif = {name: value for name, value in where.items() if name.startswith("Exif")}
    photo = plant(exif, None, where if not exif else None)
    assert f"The photo was taken near {place}" in said(photo)["the photo's place"]


def test_a_quarter_is_told_with_its_city_and_what_is_far_by_its_distance(plant):
    berlin = plant(gps("52/1 3098/100", "N", "13/1 2266/100", "E"))
    assert said(berlin)["the photo's place"].endswith(
        "Tiergarten, State of Berlin, Germany, 2 km from Berlin."
    )
    sea = plant(gps("16/1 48/1", "S", "179/1 59/1", "W"))
    assert (
        said(sea)["the photo's place"] == "The photo was taken 81 km from Labasa, Northern, Fiji."
    )


def test_towns_are_measured_on_the_globe():
    """In degrees Stallarholmen, 22 km away, would be nearer than Grillby, and no town near the other side of 180°."""
    assert towns_near(59.5, 17.2)[0].name == "Grillby"
    east, west = towns_near(-16.8, 179.999)[0], towns_near(-16.8, -179.999)[0]
    assert east.name == west.name
    assert east.km == pytest.approx(west.km, abs=0.5)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (gps("51/1 3/1 0/1", None, "3/1 43/1 0/1", "E"), "N or S"),
        (gps("51/1 3/1 0/1", "N", "3/1 43/1 0/1", None), "E or W"),
        (gps("51/1 3/1 0/1", "E", "3/1 43/1 0/1", "E"), "N or S"),
        (gps("51/1 3/0 0/1", "N", "3/1 43/1 0/1", "E"), "latitude is missing or cannot be read"),
        (gps("51/1 3/1 0/1", "N", "0/0 0/0 0/0", "E"), "longitude is missing or cannot be read"),
        ({GPS + "Latitude": "51/1 3/1 0/1", GPS + "LatitudeRef": "N"}, "longitude is missing"),
        (gps("95/1 0/1 0/1", "N", "3/1 0/1 0/1", "E"), "outside the globe"),
        (gps("51/1 99/1 0/1", "N", "3/1 0/1 0/1", "E"), "outside the globe"),
        (gps("0/1 0/1 0/1", "N", "0/1 0/1 0/1", "E"), "0, 0"),
        (gps("", "N", "x y", "E"), "latitude is missing"),
        ({"Xmp.exif.GPSLatitude": "51.05", "Xmp.exif.GPSLongitude": "3,43E"}, "latitude"),
    ],
)
def test_a_broken_position_is_told_and_never_guessed(where, told):
    with pytest.raises(ValueError, match=told):
        position(where)


def test_what_is_broken_leaves_the_rest(plant):
    photo = plant(
        gps("51/1 3/0 0/1", "N", "3/1 43/1 0/1", "E")
        | {
            "Exif.Photo.DateTimeOriginal": "2024:13:45 99:00:00",
            "Exif.Image.DateTime": "2024:05:04 08:00:00",
        }
    )
    found = read_metadata(photo)
    texts = [passage.text for passage in found.passages]
    assert texts[0] == "The photo was saved on 4 May 2024 at 8:00."
    assert len(texts) == 2
    assert len(found.problems) == 2
    assert "latitude" in found.problems[0]
    assert "2024:13:45" in found.problems[1]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2024:05:03 14:05:59", "on 3 May 2024 at 14:05"),
        ("2024-12-31T00:00:00.25+02:00", "on 31 December 2024 at 0:00"),
        ("2024-05-03", "on 3 May 2024"),
        ("2024-05", "in May 2024"),
        ("1911", "in 1911"),
        ("1911-00-00", "in 1911"),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("", None),
    ],
)
def test_dates_in_words(value, words):
    assert date_in_words(value) == words


@pytest.mark.parametrize(
    "value", ["2024:02:30 10:00:00", "3 May 2024", "2024:05:03 25:61:00", "20240503", "12024"]
)
def test_what_is_no_date_is_told(value):
    with pytest.raises(ValueError, match="none"):
        date_in_words(value)


def test_old_encodings(plant):
    old = {"Exif.Image.ImageDescription": "Die größte Mühle – 1823"}
    photo = plant(old, {"Iptc.Application2.Keywords": ["Mühle", "Öl"]}, encoding="cp1252")
    assert said(photo)["the photo's description"] == "Die größte Mühle – 1823"
    assert said(photo)["the photo's tags"] == "The photo is tagged Mühle and Öl."
    assert missing(str(photo), Place.embed) == (ALT_TEXT,)  # no caption is written over it
    numbers = " ".join(map(str, "Mühle;日本\0".encode("utf-16-le")))
    windows = plant(
        {"Exif.Image.XPKeywords": numbers, "Exif.Photo.UserComment": "charset=Unicode Ida"}
    )
    assert said(windows)["the photo's tags"] == "The photo is tagged Mühle and 日本."
    assert said(windows)["the photo's description"] == "Ida"
    assert "the photo's title" not in said(plant({"Exif.Image.XPTitle": "1 2 999"}))


def test_tags_of_trees_and_named_faces(plant):
    photo = plant(xmp={"Xmp.lr.hierarchicalSubject": ["Places|Belgium|Ghent", "Ida"]})
    assert said(photo)["the photo's tags"] == "The photo is tagged Ghent and Ida."
    region = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
      <rdf:Description xmlns:r="http://www.metadataworkinggroup.com/schemas/regions/">
      <r:Regions rdf:parseType="Resource"><r:RegionList><rdf:Bag><rdf:li rdf:parseType="Resource"><r:Name>Ida</r:Name>
      <r:Type>Face</r:Type></rdf:li></rdf:Bag></r:RegionList></r:Regions></rdf:Description></rdf:RDF></x:xmpmeta>"""
    photo.with_suffix(".xmp").write_text(region)
    assert said(photo)["the photo's people"] == "The photo shows Ida."


def test_a_sidecar_counts_before_the_photo_and_a_broken_one_is_told(plant, tmp_path):
    photo = plant({"Exif.Photo.DateTimeOriginal": "2024:05:03 14:05:00"}, name="a.jpg")
    problems: list[str] = []
    write_metadata(
        str(photo), "a model's caption", "a model's caption", Place.sidecar, False, problems
    )
    assert "the photo's description" not in said(photo)  # what a model wrote is no evidence
    Path(f"{photo}.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:p="http://ns.adobe.com/photoshop/1.0/" p:DateCreated="2023-01-02"/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    assert said(photo)["the photo's date"] == "The photo was taken on 2 January 2023."
    Path(f"{photo}.xmp").write_text("<x>")
    found = read_metadata(photo)
    assert "cannot be read as XMP" in found.problems[0]
    assert found.passages[0].text == "The photo was taken on 3 May 2024 at 14:05."


@pytest.mark.parametrize(
    "name", ["IMG_1234", "DSC00017", "P1010023", "PXL_20240503_140512345", "IMG-20240503-WA0001", "7", "img (2)",
             "3f2a9c0d-77aa-4b1e-9c3d-0123456789ab"]
)  # fmt: skip
def test_a_camera_s_name_says_nothing(plant, name):
    assert "the file's name" not in said(plant(GHENT, name=f"{name}.jpg"))


def test_a_camera_s_description_says_nothing(plant):
    photo = plant({"Exif.Image.ImageDescription": "OLYMPUS DIGITAL CAMERA         "})
    assert list(said(photo)) == ["the folder's name"]


def test_photos_without_metadata_and_with_damaged_ones_are_told(plant, tmp_path):
    photo = plant()
    assert read_metadata(photo).problems == [f"{photo} has no metadata"]
    whole = plant(GHENT, xmp={"Xmp.dc.subject": ["mill"]}).read_bytes()
    for broken, told in (
        (whole[:300], "cannot be read"),
        (whole.replace(b"<rdf:RDF", b"<rdf<RDF", 1), "XMP metadata is damaged"),
        (whole.replace(b"\x49\x49\x2a\0", b"\x49\x49\x2a\0\xff\xff\xff\xff", 1), "cannot be read"),
        (b"", "cannot be read"),
    ):
        photo.write_bytes(broken)
        (problem,) = read_metadata(photo).problems
        assert problem.startswith(str(photo))
        assert told in problem
    (problem,) = read_metadata(tmp_path / "gone.jpg").problems
    assert "No such file" in problem
    odd = tmp_path / os.fsdecode(b"m\xfchle.jpg")
    odd.write_bytes(whole)
    assert read_metadata(odd).passages[-1].text.encode()


@pytest.fixture(scope="module")
def roomy(tiny: Captioner) -> Captioner:
    """`tiny` with layers for as many and as long passages as a real model reads."""
    config = replace(tiny.model.config, documents=DocumentsConfig())
    model = VisionLanguageModel(config)
    model.load_state_dict({**model.state_dict(), **tiny.model.state_dict()})
    return Captioner(model.eval(), tiny.tokenizer)


def test_each_part_gets_a_share_and_a_loss_of_its_own(roomy: Captioner, plant):
    photo = plant(GHENT | {"Exif.Photo.DateTimeOriginal": "2024:05:03 14:05:00"})
    image, found = roomy.encode(photo), read_metadata(photo).passages
    evidence = image.ask("is there a dog?", documents=found, max_tokens=2).evidence
    assert evidence is not None
    sources = [evidence.passages[use.passage].source for use in evidence.sources[1:]]
    assert sources == ["the photo's place", "the photo's date", "the folder's name"]
    assert sum(use.share for use in evidence.sources) == pytest.approx(1, abs=1e-5)


def test_metadata_stands_beside_what_an_index_has(reading: Captioner):
    class Four:
        def search(self, text, k):
            return [
                type("Found", (), {"passage": Passage(f"a dog {n}", f"{n}", None, 0, 7)})
                for n in range(4)
            ]

    image = reading.encode(Image.new("RGB", (64, 64)))
    also = [Passage("a red cat", "the photo's title", None, 0, 9)]
    beside = image.look_up(Four(), "is there a dog?", also)
    assert [passage.source for passage in beside.passages] == ["the photo's title", "0", "1", "2"]


def test_the_command_answers_from_it(roomy: Captioner, plant, tmp_path, tiny_checkpoint):
    save_checkpoint(tmp_path / "roomy", roomy.model, roomy.tokenizer, torch.float32)
    tags = {"Xmp.dc.subject": [f"dog number {number}" for number in range(60)]}
    photo = plant(
        {"Exif.Image.DateTime": "2024:05:04 08:00:00"} | gps("51/1", None, "3/1", "E"), xmp=tags
    )
    (tmp_path / "notes.txt").write_text("The dog is called Brolka.")

    def run(model: Path, *options: str, code: int = 0):
        command = [
            "ask",
            str(photo),
            "is there a dog?",
            "--metadata",
            "--json",
            "--model",
            str(model),
        ]
        result = CliRunner().invoke(app, [*command, "--max-tokens", "2", *options])
        assert result.exit_code == code, result.output
        return result

    told = ["photo", "the photo's date", "the folder's name"]
    result = run(tmp_path / "roomy")
    assert [s["source"] for s in json.loads(result.stdout)["sources"]] == told
    assert "N or S" in result.stderr
    assert "left out: the photo's tags\n" in result.stderr
    beside = run(tmp_path / "roomy", "--docs", str(tmp_path / "notes.txt"))
    sources = [s["source"] for s in json.loads(beside.stdout)["sources"]]
    assert sources == [*told, str(tmp_path / "notes.txt")]
    assert "reads no documents" in run(tiny_checkpoint, code=2).stderr

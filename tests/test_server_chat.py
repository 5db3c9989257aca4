"""Chat completions, as OpenAI's own client sees them: the bundled model's own words, chances and maps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from served import PHOTOS, asking, client, data_url, picture, served

import vlm
from vlm.answers import Answer
from vlm.captioner import Captioner
from vlm.encoded_image import EncodedImage
from vlm.engine import Engine
from vlm.server.settings import Settings
from vlm.server.web import application

QUESTION = "what is in the picture?"


@pytest.fixture(scope="module")
def small() -> Captioner:
    return vlm.load(device="cpu")


@pytest.fixture(scope="module")
def images(small: Captioner) -> list[EncodedImage]:
    return small.encode_all(PHOTOS)


@pytest.fixture(scope="module")
def programs(small: Captioner) -> Iterator[OpenAI]:
    with Engine(small) as engine, served(application(engine, Settings("small"))) as address:
        yield client(address)


def create(programs: OpenAI, **values: Any) -> Any:
    return programs.chat.completions.create(model="small", **values)


@pytest.mark.parametrize("number", range(len(PHOTOS)), ids=lambda i: PHOTOS[i].stem)
def test_captions_and_answers_are_those_of_the_python_api(
    programs: OpenAI, images: list[EncodedImage], number: int
) -> None:
    for text, own in ((None, images[number].caption()), (QUESTION, images[number].ask(QUESTION))):
        reply = create(programs, messages=asking(PHOTOS[number], text))
        (choice,) = reply.choices
        assert choice.message.content == own.text
        assert choice.finish_reason == "stop"
        assert reply.usage.completion_tokens == len(own.ids)
        assert reply.vlm["confidence"] == pytest.approx(own.confidence, rel=1e-3)
        assert reply.vlm["verdict"] == own.verdict
        assert [word["text"] for word in reply.vlm["words"]] == [word.text for word in own.words]
        others = [other["text"] for other in reply.vlm["alternatives"]]
        assert others == [other.text for other in own.alternatives]


@pytest.mark.parametrize("text", [None, QUESTION])
def test_a_stream_is_the_same_text_piece_by_piece(
    programs: OpenAI, images: list[EncodedImage], text: str | None
) -> None:
    own = images[2].caption() if text is None else images[2].ask(text)
    asked = asking(PHOTOS[2], text)
    chunks = list(create(programs, messages=asked, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == own.text
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [
        "stop"
    ]
    assert chunks[-1].vlm["confidence"] == pytest.approx(own.confidence, rel=1e-3)
    assert len({chunk.id for chunk in chunks}) == 1
    counted = list(
        create(programs, messages=asked, stream=True, stream_options={"include_usage": True})
    )
    assert counted[-1].choices == []
    assert counted[-1].usage.completion_tokens == len(own.ids)


def test_a_stream_of_one_beam_has_a_word_a_chunk(
    programs: OpenAI, images: list[EncodedImage]
) -> None:
    greedy = {"vlm": {"search": {"beams": 1}}}
    chunks = create(programs, messages=asking(PHOTOS[2]), stream=True, extra_body=greedy)
    pieces = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
    own = images[2].caption(beams=1)
    assert "".join(pieces) == own.text
    assert len(pieces) >= len(own.words) - 1  # the last two may come together


@pytest.mark.parametrize("text", [None, QUESTION])
@pytest.mark.parametrize("tops", [0, 4])
def test_every_token_has_its_chance_and_those_of_others(
    programs: OpenAI, images: list[EncodedImage], text: str | None, tops: int
) -> None:
    own = images[2].caption() if text is None else images[2].ask(text)
    options = {"messages": asking(PHOTOS[2], text), "logprobs": True, "top_logprobs": tops}
    (choice,) = create(programs, **options).choices
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == own.text
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == own.text
    chances = [token.logprob for token in tokens]
    assert chances == pytest.approx(own.logprobs[: len(own.ids)], abs=1e-3)
    for token in tokens:
        assert len(token.top_logprobs) == tops
        assert all(a.logprob >= b.logprob for a, b in pairwise(token.top_logprobs))
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1 + 1e-5
        likelier = [o for o in token.top_logprobs if o.logprob > token.logprob + 1e-6]
        found = [o for o in token.top_logprobs if o.token == token.token]
        assert found or len(likelier) == tops
    streamed = list(create(programs, **options, stream=True))
    shown = [
        entry for c in streamed if c.choices[0].logprobs for entry in c.choices[0].logprobs.content
    ]
    assert [entry.token for entry in shown] == [token.token for token in tokens]
    assert [entry.logprob for entry in shown] == pytest.approx(chances, abs=1e-3)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == own.text


def test_further_choices_are_the_candidates(programs: OpenAI, images: list[EncodedImage]) -> None:
    own = images[2].ask(QUESTION)
    texts = [own.text, *(other.text for other in own.alternatives)][:3]
    options = {"messages": asking(PHOTOS[2], QUESTION), "n": 3}
    choices = create(programs, **options, logprobs=True).choices
    assert [choice.message.content for choice in choices] == texts
    for choice in choices:
        assert "".join(t.token for t in choice.logprobs.content) == choice.message.content
    streamed = ["", "", ""]
    for chunk in create(programs, **options, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts
    captions = create(programs, messages=asking(PHOTOS[2]), n=4).choices
    own = images[2].caption(candidates=4)
    assert [c.message.content for c in captions] == [own.text, *(o.text for o in own.alternatives)]


@pytest.mark.parametrize("text", [None, QUESTION])
def test_maps_and_the_images_effect_are_an_extension(
    programs: OpenAI, images: list[EncodedImage], text: str | None
) -> None:
    own: Answer = images[0].caption() if text is None else images[0].ask(text)
    extension = {"maps": "value", "image_effect": True}
    for stream in (False, True):
        reply = create(
            programs, messages=asking(PHOTOS[0], text), stream=stream, extra_body={"vlm": extension}
        )
        said = (list(reply)[-1] if stream else reply).vlm
        for found, expected in zip(said["maps"], own.maps(method="value"), strict=True):
            assert (found["text"], found["role"]) == (expected.text, expected.role)
            np.testing.assert_allclose(found["map"], expected.weights, atol=1e-4)
        assert said["seen"] == [0, 0, 1, 1]
        assert said["image_effect"]["total"] == pytest.approx(own.image_effect.total, abs=1e-2)
        assert len(said["image_effect"]["words"]) == len(said["words"])


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"temperature": 0}, {}),
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"max_completion_tokens": 4, "max_tokens": 9}, {"max_tokens": 4}),
        ({"temperature": 0.8, "seed": 4}, {"sample": True, "temperature": 0.8, "seed": 4}),
        ({"top_p": 0.5, "seed": 4}, {"sample": True, "top_p": 0.5, "seed": 4}),
        ({"top_p": 1}, {}),
        (
            {"extra_body": {"vlm": {"search": {"beams": 1, "min_tokens": 9}}}},
            {"beams": 1, "min_tokens": 9},
        ),
    ],
)
def test_what_decides_the_words_is_handed_on(
    programs: OpenAI, images: list[EncodedImage], options: dict[str, Any], own: dict[str, Any]
) -> None:
    (choice,) = create(programs, messages=asking(PHOTOS[3]), **options).choices
    expected = images[3].caption(**own)
    assert choice.message.content == expected.text
    assert choice.finish_reason == ("stop" if expected.finished else "length")


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (None, "caption"),
        ("", "caption"),
        ("Describe this image.", "caption"),
        ("please describe the photo in detail", "caption"),
        ("Can you caption this?", "caption"),
        ("Write a short, formal caption for this image.", "caption"),
        ("Give me an alt text", "caption"),
        ("What's in this image?", "answer"),
        ("how many dogs are there", "answer"),
        ("is a description on the sign?", "answer"),
        ("Give the number of dogs", "answer"),
    ],
)
def test_an_instruction_to_describe_gets_a_caption_and_a_question_an_answer(
    programs: OpenAI, text: str | None, task: str
) -> None:
    assert create(programs, messages=asking(PHOTOS[0], text)).vlm["task"] == task
    other = {"caption": "answer", "answer": "caption"}[task]
    if text:
        said = create(
            programs, messages=asking(PHOTOS[0], text), extra_body={"vlm": {"task": other}}
        )
        assert said.vlm["task"] == other


def test_a_pronoun_is_what_the_turn_before_was_about(
    programs: OpenAI, images: list[EncodedImage]
) -> None:
    turns = [
        *asking(PHOTOS[2], "what color is the dog?"),
        {"role": "assistant", "content": "brown"},
        {"role": "user", "content": "where is it?"},
    ]
    reply = create(programs, messages=turns)
    assert reply.vlm["question"] == "where is the dog?"
    assert reply.vlm["ignored"] == []
    assert reply.choices[0].message.content == images[2].ask("where is the dog?").text


def test_a_conversation_is_about_its_latest_image_and_its_last_question(
    programs: OpenAI, images: list[EncodedImage]
) -> None:
    turns = [
        {"role": "system", "content": "You are terse."},
        *asking(PHOTOS[1], "what is it?"),
        {"role": "assistant", "content": "coffee"},
        *asking(PHOTOS[2], "and this?"),
        {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]},
        {"role": "user", "content": QUESTION},
    ]
    reply = create(programs, messages=turns)
    assert reply.choices[0].message.content == images[2].ask(QUESTION).text
    assert reply.vlm["ignored"] == ["earlier images", "system messages", "earlier turns"]
    assert create(programs, messages=asking(PHOTOS[1])).vlm["ignored"] == []


GOOD = picture(data_url(PHOTOS[0]))
IMAGE = {"messages": [{"role": "user", "content": [GOOD]}]}


def content(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("values", "status", "says"),
    [
        ({"messages": []}, 400, 'no message of the role "user"'),
        ({"messages": [{"role": "user", "content": "what is it?"}]}, 400, "has no image"),
        ({"messages": [{"role": "user"}]}, 400, "must be a text or a list of parts"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role must be one of"),
        (content(GOOD, GOOD), 400, "2 images, and this model sees one at a time"),
        (content({"type": "input_audio", "input_audio": {}}), 400, "takes nothing else"),
        (content({"type": "image_url", "image_url": "x"}), 400, "[0] must be"),
        (content(7), 400, "[0] must be a part"),
        (content(picture("data:image/png;base64,aGVsbG8=")), 400, "not an image that can be read"),
        (content(picture("data:image/png;base64,****")), 400, "not in base64"),
        (content(picture("data:image/png,xyz")), 400, "begins with data:image/jpeg;base64"),
        (content(picture("/etc/passwd")), 400, "is given as data:image"),
        (content(picture("file:///etc/passwd")), 400, "is given as data:image"),
        (content(picture("http://127.0.0.1/a.jpg")), 400, "fetches no images"),
        (content(GOOD, {"type": "text", "text": "why " * 3000}), 400, "too long"),
        (content(GOOD, {"type": "text", "text": "?!"}), 400, "the question is empty"),
        (
            {"messages": [*IMAGE["messages"], {"role": "assistant", "content": "a"}]},
            400,
            "must end with",
        ),
        (IMAGE | {"n": 99}, 400, "n must be from 1 to 16"),
        (IMAGE | {"temperature": 3}, 400, "temperature must be"),
        (IMAGE | {"top_logprobs": 2}, 400, "goes with logprobs"),
        (IMAGE | {"logprobs": True, "top_logprobs": 21}, 400, "from 0 to 20"),
        (IMAGE | {"stop": ["a"]}, 400, "stop is nothing"),
        (IMAGE | {"response_format": {"type": "json_object"}}, 400, "response_format is nothing"),
        (
            IMAGE | {"tools": [{"type": "function", "function": {"name": "f"}}]},
            400,
            "tools is nothing",
        ),
        (IMAGE | {"extra_body": {"stopp": 1}}, 400, "unknown key stopp; did you mean stop?"),
        (IMAGE | {"extra_body": {"vlm": {"maps": "x"}}}, 400, "no method 'x'"),
        (IMAGE | {"extra_body": {"vlm": {"search": {"beams": 999}}}}, 400, "at most 16"),
        (IMAGE | {"extra_body": {"vlm": {"search": {"beans": 3}}}}, 400, "did you mean beams?"),
        (IMAGE | {"model": "gpt-5"}, 404, "there is small"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_is_a_status_and_one_sentence(
    programs: OpenAI, values: dict[str, Any], status: int, says: str, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        programs.chat.completions.create(**({"model": "small", "stream": stream} | values))
    assert caught.value.status_code == status
    message = caught.value.body["message"]
    assert says in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "values",
    [
        {"stop": None, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}},
        {"presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}},
        {"user": "ada", "store": False, "metadata": {"a": "b"}, "reasoning_effort": "low"},
    ],
)
def test_what_asks_for_nothing_is_taken(programs: OpenAI, values: dict[str, Any]) -> None:
    assert create(programs, **IMAGE, **values).choices[0].message.content


def test_models_are_listed(programs: OpenAI) -> None:
    assert [model.id for model in programs.models.list()] == ["small"]
    assert programs.models.retrieve("small").owned_by == "vlm"
    with pytest.raises(openai.NotFoundError, match="there is small"):
        programs.models.retrieve("owner/other")

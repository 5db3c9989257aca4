"""Documents over HTTP, as OpenAI's own client sends them: what answers are cited from, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from served import PHOTOS, asking, client, served

import vlm
from vlm.captioner import Captioner
from vlm.documents.passages import Passage
from vlm.engine import Engine
from vlm.server.chat_documents import MOST_CHARACTERS
from vlm.server.settings import Settings
from vlm.server.web import application

QUESTION = "is there a dog?"
TEXTS = {"cats.txt": "The black cat is a dog.", "men.txt": "Two men run in the park."}
DOCUMENTS = [{"name": name, "text": text} for name, text in TEXTS.items()]


@pytest.fixture(scope="module")
def programs(reading: Captioner) -> Iterator[OpenAI]:
    with Engine(reading) as engine, served(application(engine, Settings("tiny"))) as address:
        yield client(address)


def create(programs: OpenAI, documents: Any, text: str | None = QUESTION, **values: Any) -> Any:
    body = {"vlm": {"documents": documents, "search": {"beams": 1}}}
    return programs.chat.completions.create(
        model="tiny", messages=asking(PHOTOS[0], text), extra_body=body, **values
    )


def test_an_answer_has_the_citation_and_the_sources_of_the_python_api(
    programs: OpenAI, reading: Captioner
) -> None:
    passages = [Passage(text, name, None, 0, len(text)) for name, text in TEXTS.items()]
    own = reading.encode(PHOTOS[0]).ask(QUESTION, passages, beams=1)
    reply = create(programs, DOCUMENTS)
    assert reply.choices[0].message.content == own.text
    assert reply.vlm["citation"] == own.citation
    wanted = own.to_dict()["sources"]
    assert [source["source"] for source in reply.vlm["sources"]] == ["photo", *TEXTS]
    for source, expected in zip(reply.vlm["sources"], wanted, strict=True):
        assert source["share"] == pytest.approx(expected["share"], abs=1e-4)
        assert source["lost"] == pytest.approx(expected["lost"], abs=1e-2)


def test_a_stream_is_the_same_text_and_ends_with_the_citation(programs: OpenAI) -> None:
    whole = create(programs, DOCUMENTS)
    chunks = list(create(programs, DOCUMENTS, stream=True))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].vlm["citation"] == whole.vlm["citation"]


def test_of_more_than_the_model_reads_the_passages_that_fit_the_question_are_beside_it(
    programs: OpenAI,
) -> None:
    rest = [{"name": f"{n}.txt", "text": f"Number {n} is a red sofa."} for n in range(20)]
    reply = create(programs, [*rest, {"name": "dog.txt", "text": "There is a dog."}])
    read = [source["source"] for source in reply.vlm["sources"][1:]]
    assert "dog.txt" in read
    assert len(read) <= 4


def test_documents_may_be_asked_without_an_image(programs: OpenAI, reading: Captioner) -> None:
    passages = [Passage(text, name, None, 0, len(text)) for name, text in TEXTS.items()]
    own = vlm.ask_documents(QUESTION, passages, reading, beams=1)
    turns = [
        {"role": "user", "content": "what color is the dog?"},
        {"role": "assistant", "content": "brown"},
        {"role": "user", "content": "is it black?"},
    ]
    for messages, asked in ((turns[:0], QUESTION), (turns, "is the dog black?")):
        reply = programs.chat.completions.create(
            model="tiny",
            messages=messages or [{"role": "user", "content": QUESTION}],
            extra_body={"vlm": {"documents": DOCUMENTS, "search": {"beams": 1}}},
        )
        assert [source["source"] for source in reply.vlm["sources"]] == list(TEXTS)
        assert reply.vlm["question"] == asked
        if not messages:
            assert reply.choices[0].message.content == own.text
            assert reply.vlm["citation"] == own.citation


def test_without_a_photo_there_are_no_maps(programs: OpenAI) -> None:
    body = {"documents": DOCUMENTS, "maps": "attention"}
    with pytest.raises(openai.BadRequestError, match="there is no photo"):
        programs.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": QUESTION}],
            extra_body={"vlm": body},
        )


def test_without_documents_nothing_is_cited(programs: OpenAI) -> None:
    assert "citation" not in create(programs, []).vlm


@pytest.mark.parametrize(
    ("documents", "text", "status", "told"),
    [
        ([{"name": "a", "text": "b" * (MOST_CHARACTERS + 1)}], QUESTION, 413, "are the most here"),
        ([DOCUMENTS[0], DOCUMENTS[0]], QUESTION, 400, "must have names that differ"),
        (DOCUMENTS, None, 400, "go with a question"),
        ([{"name": "a", "text": " "}], QUESTION, 400, r"documents\[0\].text must be a text with"),
        ([{"name": "a", "text": "..."}, {"name": "b"}], QUESTION, 400, "text"),
        ([{"name": "a"}], QUESTION, 400, "text"),
        (["a text"], QUESTION, 400, r"documents\[0\] must be a mapping"),
        ("a text", QUESTION, 400, "documents must be a list"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(
    programs: OpenAI, documents: Any, text: str | None, status: int, told: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=told) as refused:
        create(programs, documents, text)
    assert refused.value.status_code == status


def test_a_model_that_reads_no_documents_says_so(tiny: Captioner) -> None:
    with (
        Engine(tiny) as engine,
        served(application(engine, Settings("tiny"))) as address,
        pytest.raises(openai.BadRequestError, match="reads no documents"),
    ):
        create(client(address), DOCUMENTS)

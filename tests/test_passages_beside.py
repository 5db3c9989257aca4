"""Passages beside an image: what cannot change does not, what is hidden is gone, what is copied is spelled right."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from vlm.captioner import Captioner
from vlm.documents.passages import Passage
from vlm.encoded_image import EncodedImage
from vlm.engine import Engine
from vlm.model.config import ConfigError, DocumentsConfig
from vlm.model.grounding import AROUND, NO_PASSAGE, best_around, start_documents
from vlm.model.model import VisionLanguageModel
from vlm.passages_beside import (
    DocumentsError,
    first_that_fit,
    fitting,
    may_be_there,
    respelled,
    spelled_as,
)
from vlm.weights.store import load_checkpoint, save_checkpoint

TEXTS = ["the black cat is a dog", "two men run in the park", "a red sofa"]
QUESTION = "is there a dog?"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.effect_noise((64, 64), 90).convert("RGB")


@pytest.fixture(scope="module")
def image(reading: Captioner, photo: Image.Image) -> EncodedImage:
    return reading.encode(photo)


def logprobs(image: EncodedImage, text: str = "a brown dog") -> torch.Tensor:
    return torch.tensor(image.explain(text, QUESTION).logprobs)


def test_without_passages_nothing_changes(tiny: Captioner, image: EncodedImage, photo: Image.Image):
    before = tiny.encode(photo)
    assert torch.equal(logprobs(image), logprobs(before))
    assert torch.equal(logprobs(image.beside(TEXTS).alone), logprobs(before))
    assert not torch.allclose(logprobs(image.beside(TEXTS)), logprobs(before), atol=1e-2)
    assert image.beside(TEXTS).beside([]).passages == ()


def test_the_order_of_passages_does_not_matter(image: EncodedImage):
    turned = image.beside(TEXTS[::-1])
    torch.testing.assert_close(logprobs(image.beside(TEXTS)), logprobs(turned))


def test_a_hidden_passage_is_as_if_it_were_not_there(image: EncodedImage):
    beside = image.beside(TEXTS)
    hidden = next(s for s in beside.memory.segments if s.name == "passage 2")
    shown = beside.memory.real.clone()
    shown[:, hidden.start : hidden.stop] = False
    without = replace(beside, projected=beside.projected.showing(shown))
    torch.testing.assert_close(logprobs(without), logprobs(image.beside([TEXTS[0], TEXTS[2]])))


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_said_token_by_token_has_the_probabilities_of_the_whole(image: EncodedImage, beams):
    answer = image.ask(QUESTION, TEXTS, beams=beams, max_tokens=6)
    scored = image.beside(TEXTS).captioner.score_ids(
        image.beside(TEXTS), answer.ids, QUESTION, answer.finished
    )
    torch.testing.assert_close(torch.tensor(answer.logprobs), torch.tensor(scored.logprobs))


def test_a_batch_gives_what_each_gives_alone(reading: Captioner, image: EncodedImage):
    other = reading.encode(Image.effect_noise((64, 64), 30).convert("RGB"))
    pair = [image.beside(TEXTS), other.beside(TEXTS[:1])]
    options = reading.choose([QUESTION], {"max_tokens": 5})
    together = reading.write(pair, [QUESTION], options)
    alone = [reading.write([one], [QUESTION], options)[0] for one in pair]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]


def test_people_with_documents_and_people_without_are_served_at_once(image: EncodedImage):
    with Engine(image.captioner) as engine:
        jobs = [
            engine.ask("a", image, QUESTION, max_tokens=4),
            engine.ask("b", image.beside(TEXTS), QUESTION, max_tokens=4),
        ]
        said = [job.result(60).ids for job in jobs]
    wanted = [image.ask(QUESTION, max_tokens=4), image.ask(QUESTION, TEXTS, max_tokens=4)]
    assert said == [answer.ids for answer in wanted]


def test_shares_sum_to_one_and_losses_are_those_of_leaving_a_passage_out(image: EncodedImage):
    answer = image.ask(QUESTION, TEXTS, max_tokens=4)
    found = answer.evidence
    assert found is not None
    assert sum(source.share for source in found.sources) == pytest.approx(1, abs=1e-5)
    for number in range(3):
        rest = [text for place, text in enumerate(TEXTS) if place != number]
        without = image.captioner.score_ids(
            image.beside(rest), answer.ids, QUESTION, answer.finished
        )
        pairs = zip(answer.logprobs[: len(answer.ids)], without.logprobs)
        lost = sum(max(0.0, own - other) for own, other in pairs)
        assert found.sources[number + 1].lost == pytest.approx(lost, abs=1e-3)
    assert [word for word, _ in found.sources[3].words] == ["a", "red", "sofa"]
    told = answer.to_dict()
    assert [source["source"] for source in told["sources"]][:2] == ["photo", "document 1"]
    assert told["citation"]
    for word in told["words"]:
        assert sum(word["shares"]) == pytest.approx(1, abs=1e-5)
        assert len(word["lost"]) == len(TEXTS) + 1


def test_answers_without_documents_have_no_evidence(image: EncodedImage):
    answer = image.ask(QUESTION, max_tokens=3)
    assert answer.evidence is None
    assert "citation" not in answer.to_dict()


def test_maps_still_lie_on_the_photo_and_tell_what_went_to_passages(image: EncodedImage):
    for method in ("attention", "occlusion"):
        (word, *_) = image.ask(QUESTION, TEXTS, max_tokens=3).maps(method=method)
        assert word.weights.sum() == pytest.approx(1, abs=1e-4)
        assert "passage 1" in word.elsewhere


def test_a_region_of_the_photo_is_hidden_and_the_passages_stay(image: EncodedImage):
    hidden = image.beside(TEXTS).without((0, 0, 32, 32))
    torch.testing.assert_close(
        logprobs(hidden), logprobs(image.without((0, 0, 32, 32)).beside(TEXTS))
    )


def test_passages_stay_beside_a_photo_of_which_a_part_is_painted_over(image: EncodedImage):
    hidden = image.beside(TEXTS).without((0, 0, 32, 32), pixels=True)
    assert [passage.text for passage in hidden.passages] == TEXTS


def test_a_passage_in_parts_is_one_source(image: EncodedImage):
    """What it loses is what the text loses without all of its parts."""
    long = "a brown dog runs in the park and two men look at the red sofa there"
    beside = image.beside([long, TEXTS[2]])
    segments = [s for s in beside.memory.segments if s.name.startswith("passage")]
    assert len(beside.passages) == len(segments) > 2
    assert beside.beside(beside.passages).passages == beside.passages
    answer = beside.ask(QUESTION, max_tokens=4)
    found = answer.evidence
    assert [passage.text for passage in found.passages] == [long, TEXTS[2]]
    assert [source.passage for source in found.sources] == [None, 0, 1]
    assert [word for word, _ in found.sources[1].words] == long.split()
    assert sum(source.share for source in found.sources) == pytest.approx(1, abs=1e-5)
    without = image.beside([TEXTS[2]]).captioner.score_ids(
        image.beside([TEXTS[2]]), answer.ids, QUESTION, answer.finished
    )
    fallen = [max(a - b, 0) for a, b in zip(answer.logprobs, without.logprobs)]
    assert found.sources[1].lost == pytest.approx(sum(fallen), abs=1e-3)
    assert answer.image_effect.words


def test_a_checkpoint_keeps_its_layers(reading: Captioner, image: EncodedImage, tmp_path, photo):
    save_checkpoint(tmp_path, reading.model, reading.tokenizer, torch.float32)
    again = Captioner(*load_checkpoint(tmp_path)).encode(photo)
    assert torch.equal(logprobs(again.beside(TEXTS)), logprobs(image.beside(TEXTS)))


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([" "], "document 1 has a passage without a word"),
        ("one text", "put a single one in a list"),
        (["a dog " * 60], "this model reads 4 at once"),
        (["a dog"] * 5, "are 5 passages"),
    ],
)
def test_documents_that_cannot_be_read_are_refused(image: EncodedImage, documents, told):
    with pytest.raises(DocumentsError, match=told):
        image.ask(QUESTION, documents)


def test_a_model_without_the_layers_says_so(tiny: Captioner, photo: Image.Image):
    with pytest.raises(DocumentsError, match="reads no documents"):
        tiny.encode(photo).ask(QUESTION, TEXTS)


def test_documents_and_a_reader_do_not_go_together(tiny: Captioner):
    config = tiny.model.config
    with pytest.raises(ConfigError, match="documents are for a decoder"):
        replace(
            config,
            decoder=replace(config.decoder, memory_width=64),
            documents=DocumentsConfig(),
        )


def test_long_passages_are_cut_between_words_into_parts_of_one_length(tiny: Captioner):
    text = " ".join(f"word{n}" for n in range(12))
    cut = fitting([Passage(text, "a", None, 0, len(text))], tiny.tokenizer, DocumentsConfig(2, 2))
    lengths = [len(ids) for _, ids, _ in cut]
    assert "".join("".join(pieces) for _, _, pieces in cut).split() == text.split()
    assert max(lengths) <= 64
    assert max(lengths) - min(lengths) < 16
    assert all(pieces[0].startswith(" ") for _, _, pieces in cut)


@pytest.mark.parametrize("most", [2, 3, 4, 8])
def test_the_first_that_fit_do_fit(tiny: Captioner, most: int):
    texts = [f"number {n} is a red sofa beside a bicycle" for n in range(10)]
    passages = [Passage(text, "a", None, 0, len(text)) for text in texts]
    for length in range(10, 18):
        config = DocumentsConfig(length=length, most=most)
        kept = first_that_fit(passages, tiny.tokenizer, config)
        assert fitting(kept, tiny.tokenizer, config)


def test_a_passage_that_is_too_long_by_itself_does_not_keep_others_out(tiny: Captioner):
    config = DocumentsConfig(length=12, most=2)
    long, short = (Passage(text, "a", None, 0, len(text)) for text in ("dog " * 40, "a dog"))
    assert first_that_fit([long, short], tiny.tokenizer, config) == [short]
    with pytest.raises(DocumentsError, match="longer than the 2 times 12 tokens"):
        first_that_fit([long], tiny.tokenizer, config)


@pytest.mark.parametrize(
    ("words", "text", "spelled"),
    [
        (["brolka"], "The cow is Brolka.", ["Brolka"]),
        (["mrs", "zen"], "It is owned by Mrs. Zen.", ["Mrs", "Zen"]),
        (["two"], "Two dogs. There are two.", ["two"]),
        (["cat"], "Concatenate.", ["cat"]),
        (["yes"], "nothing", ["yes"]),
        ([], "nothing", []),
        (["37", "euros"], "It costs 37 Euros.", ["37", "Euros"]),
        (["istanbul", "park"], "It is in İstanbul Park.", ["İstanbul", "Park"]),
    ],
)
def test_words_are_spelled_as_a_passage_has_them(words, text, spelled):
    assert spelled_as(words, [Passage(text, "a", None, 0, len(text))]) == spelled


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("A dog. Our dog Brolka sleeps.", ["Brolka", "the", "dog"]),
        ("Brolka on the sofa. The dog.", ["Brolka", "the", "dog"]),  # no everyday word
        ("Dog food. The dog is brolka.", ["brolka", "the", "dog"]),
        ("Of The Dog", ["brolka", "the", "dog"]),
    ],
)
def test_names_in_a_text_that_no_passage_has_keep_their_capitals(text, spelled):
    passages = [Passage(text, "a", None, 0, len(text))]
    assert spelled_as(["brolka", "the", "dog"], passages, {"the", "dog"}.__contains__) == spelled


def test_capitals_leave_the_marks_between_words_where_they_are():
    text = "cow, but the documents say brolka"
    words = ["cow", ",", "but", "the", "documents", "say", "Brolka"]
    assert respelled(text, words) == "cow, but the documents say Brolka"


def test_a_capital_that_in_small_letters_is_two_is_written_too():
    assert respelled("istanbul, park", ["İstanbul", "Park"]) == "İstanbul, Park"


def test_a_slot_is_as_near_as_the_best_in_the_same_sentence_of_its_passage():
    numbers = torch.tensor([[0] * 20 + [1] * 5 + [NO_PASSAGE]])
    scores = torch.zeros(1, 1, 26)
    scores[0, 0, 0], scores[0, 0, 22] = 3, 5
    best = best_around(scores, numbers)[0, 0]
    assert best.tolist() == [3] * AROUND + [0] * (20 - AROUND) + [5] * 5 + [0]


def test_words_of_a_question_are_found_where_they_stand(reading: Captioner, image: EncodedImage):
    """As the layers begin, before they learn: by likeness alone."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VisionLanguageModel(reading.model.config)
    model.load_state_dict(
        {**model.state_dict(), **reading.model.decoder.state_dict(prefix="decoder.")}
    )
    words = model.decoder.token_embedding
    inside = reading.tokenizer.inside_words(words.num_embeddings)
    start_documents(model.documents, words, inside)
    beside = Captioner(model, reading.tokenizer).encode(Image.new("RGB", (64, 64))).beside(TEXTS)
    ids = torch.tensor([reading.tokenizer.encode("two men park")])
    with torch.inference_mode():
        found = model.decoder(ids, beside.projected).found
    where = beside.projected.grounding.numbers[0]
    shares = [found[0, -1, :-1][where == number].exp().sum() for number in range(3)]
    assert max(shares) == shares[1]


def test_on_openvino_documents_are_refused_by_what_can_be_done(reading: Captioner):
    other = Captioner(reading.model, reading.tokenizer)
    other.model = SimpleNamespace(config=reading.model.config)  # no torch model, as there
    with pytest.raises(DocumentsError, match="load this model without OpenVINO"):
        _ = other.reading


@pytest.mark.parametrize(
    ("question", "there"),
    [
        ("What does the red pump weigh?", True),
        ("please tell me: how much does the RED PUMP weigh", True),
        ("When was the photo taken?", True),
        ("What is the height of the pump?", False),
        ("What does the blue pump weigh?", False),
        ("what is it?", False),
    ],
)
def test_an_answer_may_be_where_all_words_of_the_question_are(question, there):
    texts = ("The red pump weighs 40 tons.", "It was taken on 3 May.", "The blue tank.")
    assert may_be_there(question, [Passage(t, "notes", None, 0, len(t)) for t in texts]) is there

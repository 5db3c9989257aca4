from __future__ import annotations

import numpy as np
import pytest

from training.data.records import DataError, ImageRef, Record
from training.evaluation.metrics.statistics import Metric, bootstrap_interval
from training.evaluation.predict import Prediction
from training.evaluation.scoring import (
    check_references,
    differences,
    evaluate_answers,
    evaluate_captions,
    mean_points,
    points_of_each,
)


def answer(text, *answers, question="what is it?", image="a.jpg", confidence=1.0, kind=""):
    record = Record(ImageRef(image), answers, question, kind=kind)
    return Prediction(record, text, confidence)


def caption(text, *captions, image="a.jpg"):
    return Prediction(Record(ImageRef(image), captions), text, 1.0)


def test_one_answer_is_compared_as_a_set_in_plain_text():
    evaluation = evaluate_answers(
        [
            answer("night stand", "night_stand"),
            answer("knife, fork", "Fork , knife"),
            answer("fork", "knife, fork"),
            answer("red.", "red"),
        ]
    )
    assert evaluation.metrics["accuracy"] == 75
    assert [item["accuracy"] for item in evaluation.items] == [100, 100, 0, 100]


def test_similarity_adds_wups():
    same_colour = lambda a, b: 1.0 if a == b else 0.5  # noqa: E731
    evaluation = evaluate_answers([answer("red", "blue"), answer("red", "red")], same_colour)
    assert evaluation.metrics["WUPS@0.0"] == 75
    assert evaluation.metrics["WUPS@0.9"] == pytest.approx((5 + 100) / 2)


def test_several_answers_are_scored_officially():
    humans = ["2"] * 3 + ["two of them"] * 7
    evaluation = evaluate_answers([answer("two", *humans), answer("3", *humans)])
    # three humans said 2; leaving one of them out costs a third in three of ten cases
    assert evaluation.metrics["accuracy"] == pytest.approx(100 * (3 * 2 / 3 + 7) / 10 / 2)


def test_accuracy_by_kind_and_by_how_the_question_begins():
    predictions = [
        answer("yes", "yes", question="Is it red?", kind="yes/no"),
        answer("yes", "no", question="Is it blue?", kind="yes/no"),
        answer("2", "2", question="How many dogs are there?", kind="number"),
    ]
    types = evaluate_answers(predictions).types
    assert {name: (t.n, t.score) for name, t in types["kind"].items()} == {
        "yes/no": (2, 50),
        "number": (1, 100),
    }
    assert {name: t.score for name, t in types["question"].items()} == {
        "is it": 50,
        "how many": 100,
    }
    assert "kind" not in evaluate_answers([answer("yes", "yes")]).types


def test_confidence_is_judged():
    right = [answer("a", "a", confidence=0.9)] * 8
    wrong = [answer("b", "a", confidence=0.3)] * 2
    metrics = evaluate_answers(right + wrong).metrics
    assert metrics["accuracy"] == 80
    assert metrics["accuracy@80%"] == 100
    assert metrics["ECE"] == pytest.approx(100 * (0.8 * 0.1 + 0.2 * 0.3))


def test_questions_of_one_image_are_resampled_together():
    # Ten questions an image, all right or all wrong: 40 independent items, not 400.
    predictions = [
        answer("yes" if image % 2 else "no", "yes", image=f"{image}.jpg")
        for image in range(40)
        for _ in range(10)
    ]
    evaluation = evaluate_answers(predictions)
    assert evaluation.metrics["accuracy"] == 50
    interval = evaluation.intervals["accuracy"]
    by_question = bootstrap_interval(Metric(np.array([i["accuracy"] for i in evaluation.items])))
    ratio = (interval.high - interval.low) / (by_question.high - by_question.low)
    assert ratio == pytest.approx(10**0.5, rel=0.15)


def test_the_mean_is_over_questions_when_images_have_different_numbers():
    predictions = [answer("yes", "yes", image="a.jpg")] * 3 + [answer("no", "yes", image="b.jpg")]
    assert evaluate_answers(predictions).metrics["accuracy"] == 75


def test_captions_have_all_metrics_with_intervals_and_scores_an_image():
    references = ["a brown dog runs through the grass", "two men play football in the park"]
    predictions = [
        caption(references[0], references[0], "a dog outside", image="a.jpg"),
        caption("a man", references[1], image="b.jpg"),
    ]
    evaluation = evaluate_captions(predictions)
    assert {"CIDEr", "BLEU-1", "BLEU-4", "ROUGE-L", "distinct-2", "length"} <= set(
        evaluation.metrics
    )
    assert evaluation.items[0]["BLEU-4"] == pytest.approx(100, abs=1e-3)
    assert evaluation.items[1]["BLEU-4"] < 1
    for name, interval in evaluation.intervals.items():
        assert interval.low <= evaluation.metrics[name] + 1e-9
        assert evaluation.metrics[name] <= interval.high + 1e-9
    mean = np.mean([item["CIDEr"] for item in evaluation.items])
    assert evaluation.metrics["CIDEr"] == pytest.approx(mean)


def test_a_difference_is_told_from_noise():
    def system(right):
        return evaluate_answers(
            [answer("yes" if i < right else "no", "yes", image=f"{i}.jpg") for i in range(200)]
        )

    clear = differences(system(100), system(140))["accuracy"]
    assert (clear.value, clear.more_than_noise) == (20, True)
    none = differences(system(100), system(101))["accuracy"]
    assert (none.value, none.more_than_noise) == (0.5, False)


def test_what_cannot_be_scored_is_said():
    for records, reason in (
        ([], "nothing to score"),
        ([Record(ImageRef("a.jpg"), (), "what?", id="17")], "such as 17"),
        ([Record(ImageRef("a.jpg"), ("x",) * n, "what?") for n in (1, 10)], "evaluate them apart"),
    ):
        with pytest.raises(DataError, match=reason):
            check_references(records)
    with pytest.raises(DataError, match="no words"):
        evaluate_captions([caption("a dog", "`")])


def test_points_of_captions_and_answers_are_told_apart():
    predictions = [
        caption("a brown dog runs on the grass", "a brown dog runs on the grass", image="a.jpg"),
        answer("Night stand.", "night_stand"),
        caption("nothing of the kind", "two men play in the park", image="b.jpg"),
        answer("red", *["red"] * 2, *["blue"] * 8),
        answer("no", "yes"),
    ]
    assert points_of_each(predictions) == pytest.approx([1000, 100, 0, 60, 0])
    assert mean_points(predictions) == pytest.approx({"CIDEr": 500, "accuracy": 160 / 3})
    assert mean_points([]) == {}


SAME = ("a dog on the grass", "a dog outside")


@pytest.mark.parametrize(
    "captions",
    [
        [caption("a dog on the grass", *SAME)],
        [caption("a dog on the grass", *SAME, image=f"{i}.jpg") for i in range(3)],
        [
            caption("a dog on the grass", *SAME, image="a.jpg"),
            caption("a dog", *SAME[::-1], image="b"),
        ],
    ],
    ids=["one image", "copies of one", "copies with captions in another order"],
)
def test_cider_that_would_weigh_every_word_as_nothing_is_no_figure(captions):
    evaluation = evaluate_captions(captions)
    assert evaluation.missing["CIDEr"].startswith("needs two images")
    assert "CIDEr" not in {*evaluation.metrics, *evaluation.intervals, *evaluation.items[0]}
    assert evaluation.metrics["BLEU-4"] > 0
    assert points_of_each(captions) == [None] * len(captions)
    assert mean_points(captions) == {}
    assert mean_points([*captions, answer("red", "red")]) == {"accuracy": 100}
    assert "CIDEr" not in differences(evaluation, evaluation)


def test_of_one_image_there_is_no_interval_and_no_difference():
    for evaluation in (
        evaluate_captions([caption("a dog", "a dog")]),
        evaluate_answers([answer("red", "red"), answer("red", "blue")]),  # of one image
    ):
        assert evaluation.metrics
        assert evaluation.intervals == {}
        assert differences(evaluation, evaluation) == {}


def test_objects_that_no_reference_names_are_counted_with_intervals():
    predictions = [
        caption("a puppy and a cat", "a dog lies there", "a small dog", image="a.jpg"),
        caption("a man", "two people", image="b.jpg"),
        caption("something blue", "a blue thing", image="c.jpg"),
    ]
    evaluation = evaluate_captions(predictions)
    assert evaluation.metrics["CHAIR-s"] == pytest.approx(100 / 3)
    assert evaluation.metrics["CHAIR-i"] == pytest.approx(100 / 3)
    assert evaluation.invented == [["cat"], [], []]
    for name in ("CHAIR-s", "CHAIR-i"):
        assert evaluation.intervals[name].low <= 100 / 3 <= evaluation.intervals[name].high
        assert "no reference" in evaluation.definitions[name]
    none = evaluate_captions(predictions[2:])
    assert none.metrics["CHAIR-s"] == 0
    assert none.missing["CHAIR-i"] == "no caption names an object"

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from training.evaluation.metrics.vqa import (
    TypeScore,
    answer_set_match,
    by_type,
    normalize_answer,
    score_answer_sets,
    score_vqa,
    vqa_accuracy,
)

# What processPunctuation and processDigitArticle of vqaEval.py (a013f00) give for each answer.
MEASURED = {
    "Yes": "yes",
    "The red ball": "red ball",
    "two dogs": "2 dogs",
    "none": "0",
    "ten": "10",
    "eleven": "eleven",
    "an apple a day": "apple day",
    "dont": "don't",
    "couldnt've": "couldn't've",
    "couldntve": "couldntve",
    "Im": "im",
    "somebody'd": "somebodyd",
    "black-and-white": "black and white",
    "black - white": "black white",
    "black- and-white": "black andwhite",
    "black/white": "black white",
    "1,000": "1000",
    "1,000-ish (maybe)": "1000ish maybe",
    "1, 2": "1 2",
    "3.5": "3.5",
    "St. John": "st john",
    "5 p.m.": "5 pm",
    "what?": "what",
    "it's": "it's",
    "new\nline\ttab ": "new line tab",
    "": "",
}


@pytest.mark.parametrize(("answer", "normal"), MEASURED.items())
def test_official_normalisation(answer: str, normal: str) -> None:
    assert normalize_answer(answer) == normal


def test_only_the_first_32_full_stops_go() -> None:
    assert normalize_answer("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (9, 1), (10, 1)]
)
def test_accuracy_leaves_each_human_out_once(matches: int, accuracy: float) -> None:
    assert vqa_accuracy("red", ["red"] * matches + ["blue"] * (10 - matches)) == pytest.approx(
        accuracy
    )


def test_answers_are_normalised_only_where_humans_differ() -> None:
    assert vqa_accuracy("the red", ["red"] * 9 + ["blue"]) == 1
    assert vqa_accuracy("the red", ["red"] * 10) == 0
    assert vqa_accuracy(" red\n", ["red"] * 10) == 1


def test_one_answer_has_nobody_to_leave_out() -> None:
    with pytest.raises(ValueError, match="several human answers"):
        vqa_accuracy("red", ["red"])


def test_most_common_answers_of_vqa_v2_score_what_the_official_code_gives(data_dir: Path) -> None:
    file = data_dir / "vqa_v2" / "v2_mscoco_val_annotations.json"
    annotations = json.loads(file.read_text())["annotations"]
    answers = {a["question_id"]: [x["answer"] for x in a["answers"]] for a in annotations}
    most_common = {a["question_id"]: a["multiple_choice_answer"] for a in annotations}
    scores = score_vqa(most_common, answers)
    assert len(scores.question_ids) == 443
    assert scores.values["accuracy"] == pytest.approx(96.32054176, abs=1e-8)


def test_answer_sets_match_in_any_order() -> None:
    assert answer_set_match("chair, table", "table,chair") == 1
    assert answer_set_match("chair", "table,chair") == 0
    assert answer_set_match("chair", "table") == 0


def test_a_similarity_makes_the_match_of_sets_soft() -> None:
    similar = {("sofa", "couch"): 0.9, ("couch", "sofa"): 0.9, ("sofa", "lamp"): 0.5}

    def similarity(first: str, second: str) -> float:
        return 1.0 if first == second else similar.get((first, second), 0.0)

    assert answer_set_match("sofa", "couch", similarity) == pytest.approx(0.9)
    assert answer_set_match("sofa,lamp", "couch,lamp", similarity) == pytest.approx(0.9)
    # The lamp is found, but half: the weaker of the two directions counts.
    assert answer_set_match("sofa", "couch,lamp", similarity) == pytest.approx(0.9 * 0.5)


def test_wups_counts_a_tenth_below_its_threshold() -> None:
    scores = score_answer_sets(
        {1: "sofa", 2: "table"},
        {1: "couch", 2: "table"},
        similarity=lambda a, b: 1 if a == b else 0.8,
    )
    assert scores.values == {
        "exact match": pytest.approx(50),
        "WUPS@0.9": pytest.approx((8 + 100) / 2),
        "WUPS@0.0": pytest.approx((80 + 100) / 2),
    }


def test_without_a_similarity_there_is_no_wups() -> None:
    assert list(score_answer_sets({1: "sofa"}, {1: "sofa"}).values) == ["exact match"]


def test_questions_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="1 are in only one of them, such as 2"):
        score_vqa({1: "red"}, {1: ["red"] * 10, 2: ["blue"] * 10})
    with pytest.raises(ValueError, match="no answers"):
        score_answer_sets({}, {})


def test_scores_by_type() -> None:
    scores = np.array([100, 0, 30, 50])
    assert by_type(scores, ["yes/no", "number", "yes/no", "yes/no"]) == {
        "yes/no": TypeScore(3, pytest.approx(60)),
        "number": TypeScore(1, pytest.approx(0)),
    }

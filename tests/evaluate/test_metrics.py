"""Metrics against values computed by hand from the papers' formulas."""

import itertools

import pytest

from foveate.errors import InvalidValue
from foveate.evaluate.metrics import METRICS, anls, choice_letter, exact, levenshtein, multiple_choice, normalised, vqa
from foveate.evaluate.metrics import score as scored
from foveate.scenes import evaluation_set, is_correct


@pytest.mark.parametrize("answer", ["red", " Red. ", "RED", "reds", "", "red dress", "."])
def test_exact_is_what_the_embedded_set_calls_correct(answer):
    assert exact(answer, ["red"]) == float(is_correct(answer, "red"))


def test_exact_takes_any_of_several_answers():
    assert exact("car", ["automobile", "Car."]) == 1 and exact("bus", ["automobile", "car"]) == 0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # yes by 8 of 10: whoever is left out, at least 7 others agree
        ("yes", 1.0),
        # no by 2: left out one of them, 1 agrees (twice 1/3); any of the other 8: 2 agree (8 times 2/3)
        ("no", (2 * (1 / 3) + 8 * (2 / 3)) / 10),
        ("maybe", 0.0),
    ],
)
def test_vqa_averages_over_leaving_out_each_person(said, expected):
    assert vqa(said, ["yes"] * 8 + ["no"] * 2) == pytest.approx(expected)


def test_vqa_with_exactly_three_votes():
    # left out one of the three: 2/3 (3 times); one of the seven: 1 (7 times)
    assert vqa("cat", ["cat"] * 3 + ["dog"] * 7) == pytest.approx((3 * 2 / 3 + 7) / 10)


def test_vqa_by_brute_force_over_subsets_of_nine():
    people = ["a dog", "dog", "Dog.", "puppy", "the dog", "cat", "two", "2", "dogs", "dog"]
    for said in ("dog", "2", "puppy", "dogs"):
        votes = [normalised(person) == normalised(said) for person in people]
        scores = [min(1, sum(nine) / 3) for nine in itertools.combinations(votes, 9)]
        assert vqa(said, people) == pytest.approx(sum(scores) / 10)


def test_vqa_refuses_what_it_cannot_count():
    with pytest.raises(InvalidValue, match="at least 4 people"):
        vqa("dog", ["dog"])


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("The two dogs.", "2 dogs"),
        ("1,000.50", "1000.50"),
        ("3.5 m", "3.5 m"),
        ("a.m.", "am"),
        ("dont know", "don't know"),
        ("it's 10:30", "it's 10:30"),
        ("red/blue-green", "red blue green"),
        ("New  York,\nNY", "new york ny"),
        ("None", "0"),
        ("An apple", "apple"),
        ("anaconda", "anaconda"),
    ],
)
def test_vqa_normalisation(raw, clean):
    assert normalised(raw) == clean


@pytest.mark.parametrize(
    ("said", "truths", "expected"),
    [
        ("hello", ["hello"], 1.0),
        ("Helo ", ["hello"], 1 - 1 / 5),
        ("hxxxo", ["hello"], 0.0),  # 3 of 5 differ: similarity 0.4
        ("abxx", ["abcd"], 0.0),  # exactly one half is not above it
        ("abcx", ["abcd", "zzzz"], 0.75),
        ("", ["a"], 0.0),
    ],
)
def test_anls(said, truths, expected):
    assert anls(said, truths) == pytest.approx(expected)


def test_levenshtein_by_definition():
    def slow(a, b):
        if not (a and b):
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    words = ["", "a", "ab", "ba", "kitten", "sitting", "flaw", "lawn", "aab"]
    for a, b in itertools.product(words, repeat=2):
        assert levenshtein(a, b) == slow(a, b), (a, b)


CHOICES = ["red", "dark red", "blue"]


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("B", "B"), ("b", "B"), ("(c)", "C"), ("B.", "B"), ("C) blue", "C"), ("C: blue", "C"), ("B. dark red", "B"),
        ("The answer is B", "B"), ("answer: (A).", "A"), ("Answer: **C**", "C"), ("I'd say (B), the second", "B"),
        ("dark red", "B"), ("Blue.", "C"), ("It is dark red", "B"), ("it is red, I think", "A"), ("A dog is blue", "C"),
        ("A cat", None), ("I think B or C", None), ("blue or red", None), ("green", None), ("", None), ("D", None),
    ],
)  # fmt: skip
def test_the_option_that_an_answer_names(said, letter):
    assert choice_letter(said, CHOICES) == letter


def test_multiple_choice_takes_letters_and_texts_as_truth():
    assert multiple_choice("(B)", ["dark red"], CHOICES) == multiple_choice("dark red", ["b"], CHOICES) == 1
    assert multiple_choice("A", ["B"], CHOICES) == multiple_choice("no idea", ["B"], CHOICES) == 0
    with pytest.raises(InvalidValue, match="needs `choices`"):
        multiple_choice("A", ["A"], [])


def test_the_metric_follows_the_question_unless_named():
    assert scored(None, "B", ["dark red"], CHOICES) == 1 and scored("exact", "B", ["dark red"], CHOICES) == 0
    assert scored(None, "b", ["dark red"]) == 0
    with pytest.raises(InvalidValue, match="did you mean 'exact'"):
        scored("exakt", "a", ["a"])


def test_a_right_answer_scores_one_under_every_metric():
    for sample in evaluation_set(7):
        for name in set(METRICS) - {"multiple_choice"}:
            assert scored(name, sample.answer, [sample.answer] * 10) == 1

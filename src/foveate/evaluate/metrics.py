"""How right an answer is, from 0 to 1: exact match, VQA soft accuracy, ANLS, multiple choice; each as published."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ..errors import InvalidValue, unknown_name

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: Below this similarity an answer counts as another word, not as a misread one (Biten et al. 2019).
ANLS_THRESHOLD = 0.5
#: So many people must have said an answer for it to be wholly right (Antol et al. 2015).
VQA_AGREEING = 3


def exact(answer: str, answers: Sequence[str], choices: Sequence[str] = ()) -> float:
    """1 if the answer is one of `answers`, apart from case, outer spaces and a final full stop."""
    return float(_plain(answer) in {_plain(a) for a in answers})


def vqa(answer: str, answers: Sequence[str], choices: Sequence[str] = ()) -> float:
    """VQA soft accuracy: min(1, people who said it / 3), averaged over leaving out each person once.

    `answers` holds what each person said, ten in VQA v2 and TextVQA; repetitions count. Both sides are normalised as
    https://visualqa.org/evaluation.html says. Source: Antol et al., VQA, ICCV 2015. Raises InvalidValue for fewer than
    four answers: no answer could then be wholly right.
    """
    if len(answers) <= VQA_AGREEING:
        raise InvalidValue(
            f"vqa counts the votes of at least {VQA_AGREEING + 1} people in `answers`, got {len(answers)}; use exact"
        )
    said = normalised(answer)
    votes = [normalised(a) == said for a in answers]
    return sum(min(1.0, (sum(votes) - vote) / VQA_AGREEING) for vote in votes) / len(votes)


def anls(answer: str, answers: Sequence[str], choices: Sequence[str] = ()) -> float:
    """Average normalised Levenshtein similarity of one answer: 1 - distance / longer length, 0 at or below one half.

    The best over `answers`, apart from case and outer spaces. Source: Biten et al., Scene Text VQA, ICCV 2019.
    """
    said = answer.strip().lower()
    best = 0.0
    for truth in (a.strip().lower() for a in answers):
        longest = max(len(said), len(truth))
        best = max(best, 1 - levenshtein(said, truth) / longest if longest else 1.0)
    return best if best > ANLS_THRESHOLD else 0.0


def multiple_choice(answer: str, answers: Sequence[str], choices: Sequence[str]) -> float:
    """1 if the option that the answer names is a right one; an answer that names none, or several, is wrong."""
    if not choices:
        raise InvalidValue("multiple_choice needs `choices`; use exact")
    named = choice_letter(answer, choices)
    return float(named is not None and named in {choice_letter(a, choices) for a in answers})


Metric = Callable[[str, Sequence[str], Sequence[str]], float]
METRICS: dict[str, Metric] = {"anls": anls, "exact": exact, "multiple_choice": multiple_choice, "vqa": vqa}


def score(metric: str | None, answer: str, answers: Sequence[str], choices: Sequence[str] = ()) -> float:
    """The answer's score under a metric; None is multiple_choice where there are choices, exact elsewhere."""
    if metric is None:
        metric = "multiple_choice" if choices else "exact"
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    return METRICS[metric](answer, answers, choices)


# ── multiple choice ──────────────────────────────────────────────────────────────────────────────────────────────


def choice_letter(answer: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that a free answer names, or None.

    In this order: the answer is a letter ("b", "(B)", "B."), or the text of an option; it begins with one ("B. two");
    it says which ("the answer is (B)"); it holds exactly one bracketed letter, one capital letter on its own ("A" only
    where it is no article: before no word), or the text of exactly one option. The same cascade as in MMMU's and
    MMBench's published rules, without their random guess and without a judge model: what names no option is wrong.
    """
    said, letters = answer.strip(), LETTERS[: len(choices)]
    alone = re.fullmatch(rf"[(\[]?([{letters}])[)\].:]*", said, re.IGNORECASE)
    if alone:
        return alone[1].upper()
    for letter, choice in zip(letters, choices, strict=False):
        if _plain(said) == _plain(choice):
            return letter
    for pattern in (
        rf"^[(\[]?([{letters}])(?:[)\]:]|\.\s)",
        rf"(?i:answer|option|choice)(?i: is)?\s*:?\s*[(\[*]*([{letters}])(?![\w'])",
    ):
        if found := re.search(pattern, said):
            return found[1]
    for named in (
        set(re.findall(rf"[(\[]([{letters}])[)\]]", said)),
        set(re.findall(rf"(?<![\w'])([{letters}])(?![\w'])(?!(?<=A) \w)", said)),
        _held(said, letters, choices),
    ):
        if len(named) == 1:
            return named.pop()
        if named:
            return None
    return None


def _held(text: str, letters: str, choices: Sequence[str]) -> set[str]:
    """The options whose text occurs, longest first: "dark red" does not hold "red" as well."""
    text, found = text.lower(), set()
    for letter, choice in sorted(zip(letters, choices, strict=False), key=lambda pair: -len(pair[1])):
        pattern = rf"(?<!\w){re.escape(_plain(choice))}(?!\w)"
        if re.search(pattern, text):
            found.add(letter)
            text = re.sub(pattern, "|", text)
    return found


def _plain(text: str) -> str:
    return text.strip().rstrip(".").strip().lower()


# ── edit distance ────────────────────────────────────────────────────────────────────────────────────────────────


def levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of one character that turn a into b."""
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b):
            row.append(min(above[j + 1] + 1, row[j] + 1, above[j] + (x != y)))
        above = row
    return above[-1]


# ── VQA normalisation ────────────────────────────────────────────────────────────────────────────────────────────

_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(n) for n, word in enumerate(_NUMBER_WORDS)}
_NUMBERS["none"] = "0"
#: Contractions that people type without the apostrophe; those that are other words without it (its, were, well, ill)
#: are left out.
_CONTRACTED = (
    "ain't aren't can't couldn't could've didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's i'm "
    "i've isn't it'd it'll let's ma'am mightn't might've mustn't must've needn't o'clock oughtn't shan't she's "
    "should've shouldn't somebody's someone's something's that'd that's there'd there's they'd they'll they're they've "
    "wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's who've "
    "why'd why's won't would've wouldn't y'all you'd you'll you're you've"
)
_CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED.split()}


def normalised(answer: str) -> str:
    """An answer as the VQA evaluation compares it.

    Lower case; no full stops but decimal points; no commas between digits; number words to ten as digits; no articles;
    apostrophes put into contractions; any other punctuation but apostrophes and colons becomes a space.
    """
    text = " ".join(answer.lower().split())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"[^\w\s.':]|_", " ", text)
    words = (_NUMBERS.get(w, w) for w in text.split() if w not in _ARTICLES)
    return " ".join(_CONTRACTIONS.get(w, w) for w in words)

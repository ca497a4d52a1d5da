"""Fidelity: how far the compressed model is from the uncompressed one, on anyone's pictures and without labels.

The uncompressed model answers greedily; then both models, given that answer word by word, say what comes next. As long
as the compressed model's most likely token is the one that follows, its own greedy answer is the same; so one forward
pass tells where the answers part, and how unlike the two distributions are at each token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidValue
from ..loading import Loaded
from ..method import Method
from .contender import Contender, Level
from .interval import Interval, bootstrap_mean, estimate
from .judge import Numbers
from .lineup import contender, of_method
from .rows import Key, broken, key_of, missing
from .samples import Opened, Sample, greedy, inputs_of
from .study import Row, Study
from .sweep import Progress, cells_of, sweep


@dataclass(frozen=True, eq=False)
class Reference:
    """What the uncompressed model answered: the ids with the end token, and log-probabilities before each of them."""

    ids: tuple[int, ...]
    log_p: Float[Tensor, "T V"]


@dataclass
class Fidelity:
    """The judge. Numbers of each sample, over the T tokens of the uncompressed model's answer:

    kl_nats, kl_max_nats  KL divergence of the compressed model's distributions from the uncompressed one's, mean and
                          largest
    agreement             share of the tokens at which both find the same token most likely
    exact                 they agree at every token: the greedy answers are the same
    first_divergence      the first token, from 0, at which they do not; None where they always do
    """

    max_new_tokens: int = 32
    known: dict[str, Reference] = field(default_factory=dict)
    name = "fidelity"
    score = "agreement"

    def begin(self, loaded: Loaded, batch: Sequence[Opened]) -> None:
        inputs = inputs_of(loaded, batch)
        ends = _end_ids(loaded)
        answers = [_until(row, ends) for row in greedy(loaded, inputs, self.max_new_tokens).tolist()]
        logits = forced_logits(loaded, inputs, answers)
        self.known = {
            opened.sample.id: Reference(tuple(ids), row[: len(ids)].float().log_softmax(-1))
            for opened, ids, row in zip(batch, answers, logits, strict=True)
        }

    def __call__(self, loaded: Loaded, batch: Sequence[Opened]) -> list[Numbers]:
        references = [self.known[opened.sample.id] for opened in batch]
        logits = forced_logits(loaded, inputs_of(loaded, batch), [r.ids for r in references])
        decode = loaded.processor.tokenizer.decode
        return [
            {"question": opened.sample.prompt, **_compared(reference, row, decode)}
            for opened, reference, row in zip(batch, references, logits, strict=True)
        ]


def forced_logits(loaded: Loaded, inputs: dict[str, Any], answers: Sequence[Sequence[int]]) -> Float[Tensor, "B T V"]:
    """Logits before each token of the given answers, in one forward; T is the longest, rows behind a shorter one's end
    mean nothing.

    The answers take no part in what is kept: asking for the last T logits says that T - 1 tokens of answer follow the
    prompt.
    """
    longest = max(map(len, answers))
    prompt = inputs["input_ids"]
    filled = [
        [*ids, *[ids[-1]] * (longest - len(ids))] for ids in answers
    ]  # causal: what follows changes nothing before
    forced = torch.tensor(filled, device=prompt.device)[:, : longest - 1]
    given = dict(inputs)
    for name, value in inputs.items():
        if torch.is_tensor(value) and value.shape == prompt.shape:  # the ids, their mask, their types: 0 is text
            rest = {"input_ids": forced, "attention_mask": torch.ones_like(forced)}.get(name, torch.zeros_like(forced))
            given[name] = torch.cat([value, rest.to(value.dtype)], dim=1)
    with torch.no_grad():
        logits: Tensor = loaded.model(**given, logits_to_keep=longest).logits
    return logits


def _compared(reference: Reference, logits: Tensor, decode: Any) -> Numbers:
    log_p = reference.log_p
    log_q = logits[: len(reference.ids)].float().log_softmax(-1)
    # where p is 0 it adds nothing, and 0 x (-inf - x) would be NaN
    kl = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)
    expected, found = log_p.argmax(-1), log_q.argmax(-1)
    same = expected == found
    first = None if bool(same.all()) else int((~same).int().argmax())
    return {
        "kl_nats": _finite(kl.mean()), "kl_max_nats": _finite(kl.max()), "agreement": float(same.float().mean()),
        "exact": first is None, "first_divergence": first, "answer_tokens": len(reference.ids),
        "answer": decode(reference.ids, skip_special_tokens=True).strip(),
        "expected_token": None if first is None else decode([int(expected[first])]),
        "found_token": None if first is None else decode([int(found[first])]),
    }  # fmt: skip


def _finite(value: Tensor) -> float:
    number = float(value)
    if number != number or number == float("inf"):
        raise InvalidValue("the logits hold NaN or infinity; load the model in another dtype")
    return number


def _end_ids(loaded: Loaded) -> set[int]:
    ends = loaded.model.generation_config.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def _until(ids: list[int], ends: set[int]) -> list[int]:
    """The ids up to and with the first end token."""
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: end + 1]


# ── one method at several budgets ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Closeness:
    """How close a method at a budget is to the uncompressed model, over the samples that could be asked."""

    label: str
    budget: str | None
    t_eq: float
    kl_nats: Interval
    agreement: Interval
    exact: Interval
    broken: int


@dataclass(frozen=True)
class FidelityResult:
    """Rows of each sample, what they come to, what has no result (`missing`), and samples that are `broken`."""

    rows: tuple[Row, ...]
    cells: tuple[Closeness, ...]
    missing: dict[Key, str]
    broken: dict[str, str]


def fidelity(
    loaded: Loaded,
    samples: Sequence[Sample],
    methods: Sequence[str | Method | Contender],
    levels: Sequence[Level | float],
    *,
    max_new_tokens: int = 32,
    study: Study | None = None,
    batch: int = 8,
    progress: Progress = lambda done, total: None,
) -> FidelityResult:
    """How far the compressed model is from the uncompressed one on these samples.

    A bare number in `levels` is each method's own `keep`.
    """
    if not samples:
        raise InvalidValue("there is nothing to ask; give images and a prompt")
    at = [level if isinstance(level, Level) else Level(keep=level) for level in levels]
    cells = cells_of(list(_contenders(methods)), at)
    rows = sweep(loaded, samples, cells, Fidelity(max_new_tokens), study=study, batch=batch, progress=progress)
    return summary(rows, [c.key for c in cells])


def _contenders(methods: Sequence[str | Method | Contender]) -> Iterator[Contender]:
    for method in methods:
        if isinstance(method, Method):
            yield of_method(method.card.name, method)
        else:
            yield contender(method) if isinstance(method, str) else method


def summary(rows: Sequence[Row], keys: Sequence[Key]) -> FidelityResult:
    """What the rows of a fidelity study come to; questions about one picture are resampled together."""
    cells: list[Closeness] = []
    for key in keys:
        mine = [r for r in rows if key_of(r) == key]
        good = [r for r in mine if not r["error"]]
        groups = [r["sample"].rpartition("#")[0] or r["sample"] for r in good]
        if good:
            cells.append(
                Closeness(
                    *key,
                    t_eq=sum(r["t_eq"] for r in good) / len(good),
                    kl_nats=bootstrap_mean([r["kl_nats"] for r in good], groups),
                    agreement=estimate([r["agreement"] for r in good], groups),
                    exact=estimate([float(r["exact"]) for r in good], groups),
                    broken=len(broken(mine)),
                )
            )
    return FidelityResult(tuple(rows), tuple(cells), missing(rows), broken(rows))

"""The catalogue: papers on fewer visual tokens, read from package data, and which of them foveate implements."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict

Modality = Literal["image", "video", "audio"]
TrainingFree = Literal["yes", "calibration", "no"]
Stage = Literal["vision", "projector", "llm", "kv"]

_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


class Links(BaseModel):
    """Where to read the paper and its code; None where there is none or nobody has told us."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paper: str | None
    code: str | None


class Paper(BaseModel):
    """One paper; None stands for what is not known.

    aliases        what people call it, the usual name first
    venue          where it was published, "CVPR 2025"; None for a preprint
    year           of the venue, else of the preprint
    training_free  "calibration" needs a pass over some data, but no training
    stage          where tokens are reduced: "vision" (in the tower, or by its attention), "projector" (before the
                   language model, by features), "llm" (inside it), "kv" (in its cache)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    aliases: tuple[str, ...]
    title: str
    arxiv: str | None
    venue: str | None
    year: int | None
    links: Links
    modality: tuple[Modality, ...]
    training_free: TrainingFree | None
    stage: tuple[Stage, ...] | None

    @property
    def name(self) -> str:
        """What people call it, else its title."""
        return self.aliases[0] if self.aliases else self.title

    @property
    def published(self) -> str:
        """The venue, else the preprint."""
        return self.venue or (f"arXiv {self.year}" if self.arxiv else "")


@cache
def papers() -> tuple[Paper, ...]:
    """All papers."""
    text = (files(__package__) / "assets" / "catalogue.jsonl").read_text(encoding="utf-8")
    return tuple(Paper.model_validate_json(line) for line in text.splitlines())


@cache
def implementations() -> dict[str, tuple[str, ...]]:
    """Paper ids, and the methods here that implement each.

    A card names its paper by arXiv id; one of a paper without any has the paper's id as its name.
    """
    from .method import all_methods

    found: dict[str, list[str]] = {}
    by_arxiv = {p.arxiv: p.id for p in papers() if p.arxiv}
    others = {p.id for p in papers() if not p.arxiv}
    for name, cls in sorted(all_methods().items()):
        cited = {by_arxiv[a] for a in _ARXIV.findall(cls.card.paper) if a in by_arxiv} or {name} & others
        for paper in cited:
            found.setdefault(paper, []).append(name)
    return {paper: tuple(names) for paper, names in found.items()}


def search(
    words: Iterable[str] = (),
    *,
    training_free: bool = False,
    implemented: bool = False,
    modality: Modality | None = None,
    year: int | None = None,
) -> list[Paper]:
    """Papers that have all words in their names, title, venue or arXiv id, and pass the filters.

    Those called exactly so come first, then the implemented ones, then the newest. `training_free` lets calibration
    pass. Case and accents do not count, and VidCom2 finds VidCom².
    """
    wanted = [_plain(w) for w in words]
    whole = " ".join(wanted)
    here = implementations()

    def fits(paper: Paper) -> bool:
        return (
            all(w in _text(paper) for w in wanted)
            and (not training_free or paper.training_free in ("yes", "calibration"))
            and (not implemented or paper.id in here)
            and (modality is None or modality in paper.modality)
            and (year is None or paper.year == year)
        )

    def rank(paper: Paper) -> tuple[bool, bool, int, str]:
        called_so = whole in {_plain(a) for a in paper.aliases}
        return called_so, paper.id in here, paper.year or 0, paper.arxiv or ""

    return sorted(filter(fits, papers()), key=rank, reverse=True)


def near(words: Iterable[str]) -> list[str]:
    """Names of papers that look like these words; for when a search finds nothing."""
    names = {_plain(alias): alias for paper in papers() for alias in paper.aliases}
    given = [_plain(w) for w in words]
    close = (m for w in (*given, " ".join(given)) for m in get_close_matches(w, names, n=3, cutoff=0.6))
    return [names[m] for m in dict.fromkeys(close)]


def _text(paper: Paper) -> str:
    return _plain(" ".join((*paper.aliases, paper.title, paper.venue or "", paper.arxiv or "")))


def _plain(text: str) -> str:
    """Lower case without accents; raised digits become digits."""
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c)).casefold()

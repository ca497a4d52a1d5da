"""Cards: all there is to say of a method, derived from its class; what the command line and docs/methods.md show."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from .errors import FoveateError
from .left_out import LEFT_OUT
from .method import Method, all_methods
from .plan import Block, Layer, ModelShape, Step, check_steps

#: The shapes that cards describe steps on: a tower with a CLS token, and one without.
REFERENCES = {
    "LLaVA-1.5-7B": ModelShape(
        family="llava", layers=32, hidden=4096, heads=32, kv_heads=32, head_dim=128, ffn=11008, vocab=32064,
        vision_blocks=24, vision_features=22, vision_global=tuple(range(24)), has_cls=True,
        patch_tokens=True,
    ),
    "Qwen2.5-VL-7B": ModelShape(
        family="qwen2_5_vl", layers=28, hidden=3584, heads=28, kv_heads=4, head_dim=128, ffn=18944, vocab=152064,
        vision_blocks=32, vision_features=31, vision_global=(7, 15, 23, 31), mrope=True,
    ),
}  # fmt: skip

STAGES = {"vision": "vision tower", "projector": "projector", "llm": "language model"}
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


@dataclass(frozen=True)
class Entry:
    """One method as the lists and the docs show it.

    stages     where it cuts, in the order of the forward pass, keys of STAGES
    steps      its sentences on the reference model that `on` names
    reads      what it reads from the model, and what that is
    positions  the published policy, which becomes "keep" under M-RoPE
    """

    name: str
    title: str
    paper: str
    link: str
    venue: str
    modality: tuple[str, ...]
    summary: str
    about: str
    settings: dict[str, str]
    stages: tuple[str, ...]
    on: str
    steps: tuple[str, ...]
    signals: tuple[str, ...]
    reads: dict[str, str]
    positions: str
    checked: tuple[str, ...]
    deviations: tuple[str, ...]

    @property
    def source(self) -> str:
        """Venue and paper, or that there is none."""
        venue = "" if self.venue.startswith("arXiv") and self.paper else self.venue
        return ", ".join(filter(None, (venue, self.paper))) or "no paper"


def entry(cls: type[Method]) -> Entry:
    """What there is to say of a method at its defaults."""
    on, steps = _reference_steps(cls)
    about = inspect.getdoc(cls) or ""
    arxiv = _ARXIV.search(cls.card.paper)
    return Entry(
        **{f.name: getattr(cls.card, f.name) for f in dataclasses.fields(cls.card)},
        link=f"https://arxiv.org/abs/{arxiv[0]}" if arxiv else "",
        summary=about.partition("\n")[0],
        about=about.partition("\n")[2].strip(),
        settings={f.name: str(_default(f)) for f in dataclasses.fields(cls)},  # type: ignore[arg-type]
        stages=tuple(dict.fromkeys(s.at.stage for s in steps)),
        on=on,
        steps=tuple(_sentences(steps)),
        reads={str(r): (type(r).__doc__ or "").partition("\n")[0].rstrip(".") for s in steps for r in s.reads},
        positions=_positions(steps),
    )


def entries(stage: str | None = None, modality: str | None = None) -> list[Entry]:
    """All methods that cut at this stage and are for this modality; by stages, then by name."""
    order = list(STAGES)
    every = (entry(cls) for cls in all_methods().values())
    kept = (e for e in every if stage in (None, *e.stages) and modality in (None, *e.modality))
    return sorted(kept, key=lambda e: ([order.index(s) for s in e.stages], e.name))


def by_stage(found: Iterable[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    """The entries that cut at the same stages, under a heading that says which."""
    for stages, group in groupby(found, key=lambda e: e.stages):
        heading = ", then ".join(STAGES[s] for s in stages) or "nowhere at its defaults"
        yield heading, list(group)


@cache
def runs_on(cls: type[Method]) -> dict[str, str]:
    """For each family an empty string where the method runs, as the tests run it, else why it cannot."""
    found = {}
    for title, shape in _family_shapes():
        try:
            check_steps(cls().steps(shape), shape)
            found[title] = ""
        except FoveateError as error:
            found[title] = str(error)
    return found


def as_dict(e: Entry) -> dict[str, Any]:
    """An entry with the families it runs on, for JSON."""
    return dataclasses.asdict(e) | {"families": runs_on(all_methods()[e.name])}


@cache
def _family_shapes() -> tuple[tuple[str, ModelShape], ...]:
    from .families import families

    every = sorted(set(families().values()), key=lambda f: f.title)
    return tuple((f.title, f.shape(f.tiny().config)) for f in every)


def _reference_steps(cls: type[Method]) -> tuple[str, tuple[Step, ...]]:
    for title, shape in REFERENCES.items():
        try:
            return title, check_steps(cls().steps(shape), shape)
        except FoveateError:
            continue
    return "", ()


def _sentences(steps: Iterable[Step]) -> Iterator[str]:
    """One for each step; cuts inside the language model, or the tower, that differ only in place and keep share one."""

    def alike(step: Step) -> tuple[str, ...]:
        at = type(step.at).__name__ if isinstance(step.at, Block | Layer) else str(step.at)
        return (at, step.per, step.cache, *step.words()[2:])

    for (_, per, forget, score, select, merge), group in groupby(steps, key=alike):
        same = list(group)
        kind = "vision blocks" if isinstance(same[0].at, Block) else "layers"
        places = [s.at.block if isinstance(s.at, Block) else s.at.layer for s in same]
        keeps = [s.words()[1] for s in same]
        if len(same) == 1:
            at, keep = str(same[0].at), keeps[0]
        elif places == list(range(places[0], places[-1] + 1)):
            at, keep = f"{kind} {places[0]} to {places[-1]}", f"{keeps[0]} down to {keeps[-1]}"
        else:
            at, keep = f"{kind} {', '.join(map(str, places))}", ", ".join(keeps)
        words = ", ".join(w for w in (score, select, merge) if w != "-")
        forgotten = ", in the caches of all layers" if forget == "all" else ""
        yield f"at {at}: keep {keep} per {per} by {words}{forgotten}"


def _positions(steps: Iterable[Step]) -> str:
    by_site = {s.at.stage: s.positions for s in steps}
    if len(set(by_site.values())) == 1:
        return next(iter(by_site.values()))
    return ", ".join(f"{positions} at the {STAGES[stage]}" for stage, positions in by_site.items())


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return "(required)" if field.default is dataclasses.MISSING else field.default


# ── docs/methods.md ──────────────────────────────────────────────────────────────────────────────────────────────


def markdown() -> str:
    """docs/methods.md: a table of all methods that ship, then one card each."""
    shipped = [e for e in entries() if all_methods()[e.name].__module__.startswith(f"{__package__}.")]
    lines = [
        "# Methods",
        "",
        "<!-- generated: foveate methods --markdown > docs/methods.md -->",
        "",
        f"{len(shipped)} methods, by where they cut. `keep` is a fraction of the uncompressed count, at every site.",
        f"A card shows the steps at the defaults on {' or, where that cannot run them, '.join(REFERENCES)}. Where a",
        "method runs, it keeps every promise of `foveate.testing`. Published positions become `keep` under M-RoPE.",
        "",
        "| method | cuts at | what it does | paper |",
        "|---|---|---|---|",
    ]
    for heading, group in by_stage(shipped):
        lines += [f"| [{e.name}](#{e.name}) | {heading} | {_cell(e.summary)} | {_source(e)} |" for e in group]
    for heading, group in by_stage(shipped):
        lines += ["", f"## {heading[0].upper()}{heading[1:]}"]
        for e in group:
            lines += _card(e)
    lines += ["", "## Not here", "", "What would have to be guessed does not get a paper's name.", ""]
    lines += [f"- {title} ({paper}): {why}." for title, paper, why in LEFT_OUT.values()]
    return "\n".join(lines) + "\n"


def _card(e: Entry) -> Iterator[str]:
    yield from ("", f"### {e.name}", "", f"**{e.title}.** {_source(e)}", "", e.summary)
    if e.about:
        yield from ("", "```text", e.about, "```")
    settings = ", ".join(f"`{name} = {value}`" for name, value in e.settings.items())
    yield from ("", f"- for: {', '.join(e.modality)}", f"- defaults: {settings}")
    yield from _list("steps", (f"`{sentence}`" for sentence in e.steps))
    yield from _list("signals", e.signals)
    yield from _list("reads", (f"`{reading}`: {what}" for reading, what in e.reads.items()))
    yield f"- positions: {e.positions}"
    runs = runs_on(all_methods()[e.name])
    yield f"- runs on: {', '.join(title for title, why in runs.items() if not why) or 'no family'}"
    yield from _list("does not run on", (f"{title}: {why}" for title, why in runs.items() if why))
    yield from _list("checked against", e.checked)
    yield from _list("differs from the released code", e.deviations)


def _list(title: str, lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        yield f"- {title}:"
        yield from (f"  - {line}" for line in lines)


def _source(e: Entry) -> str:
    return f"[{e.source}]({e.link})" if e.link else e.source


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

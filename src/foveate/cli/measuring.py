"""What the measuring commands share: what is asked, a study that is begun or resumed, a bar that can be stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import FoveateError, InvalidValue
from . import options as o
from .run import quiet
from .show import busy, err, out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..loading import Loaded
    from ..measure.contender import Contender, Level
    from ..measure.interval import Interval
    from ..measure.rows import Key
    from ..measure.samples import Sample
    from ..measure.study import Study

    Context = typer.Context
else:
    Context = typer.Context.__base__  # what typer hands over

Methods = Annotated[
    str,
    typer.Option(
        "--methods",
        metavar="A,B,...",
        help="Names, with settings as in visionzip:contextual=0.2, or recipes (x.yaml); twin=fastv gives another name.",
    ),
]
KeepList = Annotated[str | None, typer.Option("--keep", metavar="F,F,...", help="T_eq as fractions of the tokens.")]
TEqList = Annotated[str | None, typer.Option("--t-eq", metavar="N,N,...", help="T_eq in tokens, in place of --keep.")]
Images = Annotated[list[Path] | None, typer.Argument(help="Image files, or folders of them.")]
Prompt = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="The question; may be given several times.")]
Prompts = Annotated[Path | None, typer.Option(help="A text file with one question a line.")]
Data = Annotated[str | None, typer.Option(metavar="FILE", help="A dataset, as foveate eval reads it, in their place.")]
Samples = Annotated[int | None, typer.Option(min=1, help="Only the first so many questions of those that are there.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Attn = Annotated[str | None, typer.Option(help="sdpa, eager, flash_attention_2, ...")]
Folder = Annotated[Path | None, typer.Option("--study", help="Folder to write to; studies/COMMAND-TIME by default.")]
Resume = Annotated[Path | None, typer.Option(metavar="STUDY", help="Go on with a study that was stopped.")]

#: options that may stand beside --resume
BESIDE_RESUME = ("resume", "as_json", "report")


@dataclass(frozen=True)
class Asked:
    """A measuring command as it was given: what is needed to begin a study, and to go on with it."""

    settings: dict[str, Any]
    contenders: Sequence[Contender]


@dataclass(frozen=True)
class Work:
    """What the work needs: model, samples, contenders, budgets, where rows go, whom to tell of progress."""

    loaded: Loaded
    samples: list[Sample]
    contenders: list[Contender]
    levels: list[Level]
    settings: dict[str, Any]
    study: Study
    progress: Callable[[int, int], None]


def measured(
    context: Context,
    kind: str,
    resume: Path | None,
    folder: Path | None,
    asked: Callable[[], Asked],
    work: Callable[[Work], Any],
) -> tuple[Study, Any]:
    """Do the work inside a study, new or resumed; stopped by Ctrl-C it says how to go on, with exit code 130."""
    with busy("loading"):
        from ..loading import load
        from ..measure.contender import Level
        from ..measure.illustrate import illustrate
        from ..measure.lineup import from_recipe
        from ..measure.study import Study

        quiet()
        study = None
        if resume is not None:
            nothing_else(context)
            study = Study.resume(resume, kind)
        settings, recipes = _content(study, asked)
        samples = _samples(settings)
        loaded = load(
            settings["model"], dtype=settings["dtype"], device=settings["device"], attn_implementation=settings["attn"]
        )
        if study is None:
            study = Study.create(
                folder or Study.default_folder(kind), kind, settings=settings, recipes=recipes,
                command=["foveate", *sys.argv[1:]], samples=len(samples),
            )  # fmt: skip
    levels = [Level(**level) for level in settings["levels"]]
    contenders = [from_recipe(label, recipe) for label, recipe in recipes.items()]
    with bar(kind, study) as progress:
        result = work(Work(loaded, samples, contenders, levels, settings, study, progress))
        illustrate(loaded, samples, contenders, levels, study)
    study.finish()
    return study, result


def _content(study: Study | None, asked: Callable[[], Asked]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and recipes, of the study that is resumed, or as asked."""
    if study is not None:
        return study.about["settings"], study.about["recipes"]
    wanted = asked()
    return wanted.settings, {c.label: c.recipe() for c in wanted.contenders}


def nothing_else(context: Context, *beside: str) -> None:
    """Raises InvalidValue for an option beside --resume, but those that change no result and those named here."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and name not in (*BESIDE_RESUME, *beside):
            raise InvalidValue(f"--resume takes everything else from the study; leave {parameter.opts[0]} out")


@contextmanager
def bar(kind: str, study: Study) -> Iterator[Callable[[int, int | None], None]]:
    """A bar with a time estimate, told how many of how many are done; Ctrl-C says how to go on, and exits with 130."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    seen: tuple[int, int | None] = (0, 0)
    try:
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
            task = shown.add_task(kind, total=None)

            def progress(done: int, total: int | None) -> None:
                nonlocal seen
                seen = done, total
                shown.update(task, completed=done, total=total)

            yield progress
    except KeyboardInterrupt:
        done, total = seen
        how_far = f"{done} of {total or 'all'}"
        print(
            f"foveate: stopped with {how_far} done; go on with: foveate {kind} --resume {study.folder}", file=sys.stderr
        )
        raise typer.Exit(130) from None


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────


def levels(keep: str | None, t_eq: str | None, default: str, own: bool = False) -> list[dict[str, float]]:
    """Budgets as settings: `keep` is a share of the tokens, or each method's `own`."""
    from ..measure.contender import Level

    if keep is not None and t_eq is not None:
        raise InvalidValue("--keep and --t-eq both set the budget; give one of them")
    option, text = ("--t-eq", t_eq) if t_eq is not None else ("--keep", keep or default)
    name = "t_eq" if t_eq is not None else "keep" if own else "share"
    found = [Level(**{name: number}) for number in numbers(option, text)]
    return [{k: v for k, v in asdict(level).items() if v is not None} for level in dict.fromkeys(found)]


def numbers(option: str, text: str) -> list[float]:
    """Numbers with commas between them."""
    return [o.number(option, part.strip()) or 0.0 for part in text.split(",")]


def whole_numbers(option: str, text: str) -> list[int]:
    """Whole numbers with commas between them."""
    found = numbers(option, text)
    if any(n != int(n) for n in found):
        raise InvalidValue(f"{option} takes whole numbers, got {text!r}")
    return [int(n) for n in found]


def names(methods: str) -> list[str]:
    """What stands between the commas; raises InvalidValue where there is nothing."""
    found = [m.strip() for m in methods.split(",") if m.strip()]
    if not found:
        raise InvalidValue("no method was named; foveate methods lists them")
    return found


def questions(prompt: list[str] | None, prompts: Path | None, default: str | None) -> list[str]:
    """The questions that were given; an empty line in a file is one too, and will be counted as broken."""
    found = list(prompt or [])
    if prompts is not None:
        try:
            found += prompts.read_text().rstrip("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValue(f"cannot read the questions in {prompts}: {error}") from error
    if not found and default is None:
        raise InvalidValue("no question was asked; give one with --prompt, or a file of them with --prompts")
    return found or [str(default)]


def what_to_ask(
    images: list[Path] | None,
    prompt: list[str] | None,
    prompts: Path | None,
    data: str | None,
    samples: int | None,
    shipped: int,
) -> dict[str, Any]:
    """The samples as settings: every question about every image, or a dataset; else so many of those that ship."""
    if images and data:
        raise InvalidValue("give images or --data, not both")
    if images:
        if samples is not None:
            raise InvalidValue("--samples counts questions that are there; every question is asked about every image")
        return {"images": [str(i) for i in images], "prompts": questions(prompt, prompts, None)}
    if prompt or prompts:
        raise InvalidValue("a question needs images to be about; name files or folders")
    return {"data": data, "limit": samples} if data else {"embedded": samples or shipped}


def model_settings(model: str | None, dtype: str, device: str | None, attn: str | None) -> dict[str, Any]:
    """The model as settings, on a GPU where there is one."""
    from .eval import default_device

    return {"model": model, "dtype": dtype, "device": device or default_device(), "attn": attn}


def _samples(settings: Mapping[str, Any]) -> list[Sample]:
    from ..measure.samples import Picture, Unusable, embedded_samples, picture_samples, synthetic_pictures

    if settings.get("embedded"):
        return list(embedded_samples(settings["embedded"]))
    if settings.get("data"):
        from ..evaluate.dataset import load_dataset

        dataset = load_dataset(settings["data"], settings["limit"])
        return [*dataset.samples, *(Unusable(broken.id, broken.reason) for broken in dataset.broken)]
    prompts = settings["prompts"]
    if synthetic := settings.get("synthetic"):
        pictures: list[Any] = list(synthetic_pictures(*synthetic))
        if settings.get("frames"):
            return [Picture("synthetic video", prompts[0], tuple(pictures), video=True)]
        return [Picture(f"synthetic {i + 1}", prompts[0], (p,)) for i, p in enumerate(pictures)]
    if settings.get("frames"):
        files = tuple(s.images[0] for s in picture_samples(settings["images"], [""]))
        return [Picture("video", prompts[0], files, video=True)]
    return list(picture_samples(settings["images"], prompts))


# ── how results look ─────────────────────────────────────────────────────────────────────────────────────────────


def by_budget(rows: Sequence[Any], columns: Sequence[str], cells: Callable[[Any], list[str]]) -> Table:
    """A table with a line for each row (a mapping with method and budget), under a heading for each budget."""
    made = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("", no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right")
    for budget in dict.fromkeys(row["budget"] for row in rows):
        if budget is not None:
            made.add_row(f"[bold]{budget}[/bold]")
        for row in rows:
            if row["budget"] == budget:
                made.add_row(row["method"] if budget is None else f"  {row['method']}", *cells(row))
    return made


def short(value: float | None) -> str:
    """A number with three digits that count."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def with_interval(value: Interval, digits: int = 2) -> str:
    """A mean with its interval: 0.962 [0.94, 0.98]."""
    mean = f"{value.mean:.3f}"
    return mean if value.low is None else f"{mean} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def name_of(key: Key) -> str:
    """A contender at a budget, in a sentence."""
    return key[0] if key[1] is None else f"{key[0]} at {key[1]}"


def print_json(study: Study, found: dict[str, Any], missing: Mapping[Key, str], broken: Mapping[str, str]) -> None:
    """One object: the study with its record, what was found, what has no result, what is broken."""
    about = study.about
    record = {name: about[name] for name in ("kind", "machine", "versions", "recipes", "settings")}
    without = {"missing": {name_of(key): why for key, why in missing.items()}, "broken": broken}
    print(json.dumps({"study": str(study.folder), **record, **found, **without}, ensure_ascii=False))


def say_what_else(study: Study, missing: Mapping[Key, str], broken: Mapping[str, str], holds: str) -> None:
    """What has no result, on stderr (budgets out of reach, samples that could not be asked), and where the study is."""
    for key, why in missing.items():
        err.print(f"without a result: {name_of(key)}: {why}", markup=False, soft_wrap=True)
    if broken:
        err.print(f"{len(broken)} of {study.about['samples']} samples could not be judged:", markup=False)
        for sample, why in list(broken.items())[:5]:
            err.print(f"  {sample}: {why}", markup=False, soft_wrap=True)
        if len(broken) > 5:
            err.print(f"  and {len(broken) - 5} more; each has its rows in the study", markup=False)
    out.print(f"\n{holds}: {study.folder}", soft_wrap=True)


def refuse_nothing(found: Sequence[Any], missing: Mapping[Key, str]) -> None:
    """Raises FoveateError when there is no result at all."""
    if not found:
        raise FoveateError(f"nothing could be measured; {name_of(next(iter(missing)))}: {next(iter(missing.values()))}")

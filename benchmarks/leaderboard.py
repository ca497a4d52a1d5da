"""All methods on the embedded model at equal T_eq, ranked and tested against random and uniform: docs/leaderboard.md.

Every method is set by `foveate.solve` so that it spends the same T_eq (visual tokens a layer, averaged), a quarter and
a tenth of the uncompressed count; the baselines too. The questions are the held-out set of `foveate.scenes`, answers
are exact matches, and each method is compared with a baseline question by question (exact McNemar). A method that
cannot spend so little is listed with the reason.

    python benchmarks/leaderboard.py [--samples 500] [--methods scope fastv] [--study DIR] [--resume DIR] [--write]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import foveate
from foveate.evaluate.statistics import mcnemar
from foveate.measure.comparison import Comparison, Entry, summary
from foveate.measure.contender import Level
from foveate.measure.judge import ExactAnswer
from foveate.measure.lineup import line_up
from foveate.measure.samples import embedded_samples
from foveate.measure.study import Study
from foveate.measure.sweep import cells_of, sweep

SHARES = (0.25, 0.1)
BASELINES = ("random", "uniform")
#: a published layer 2 of 32 is before layer 1 of the 8 that this model has
SHALLOW = {"fastv": "fastv=fastv:layer=1"}
DOCS = Path(__file__).parents[1] / "docs" / "leaderboard.md"
#: made for what changes over time; a single image is one frame to them
NEEDS_TIME = ("video",)


def judged(options: argparse.Namespace) -> Comparison:
    """Every method at both budgets on all questions; resumes where a study has answers already."""
    names = options.methods or [n for n in foveate.all_methods() if n != "progressive"]
    folder = options.resume or options.study
    study = None
    if folder:
        path = Path(folder)
        study = Study.resume(path, "leaderboard") if options.resume else Study.create(path, "leaderboard")
    cells = cells_of(line_up([SHALLOW.get(n, n) for n in names]), [Level(share=s) for s in SHARES])
    start = time.perf_counter()

    def progress(done: int, total: int) -> None:
        left = (time.perf_counter() - start) * (total - done) / max(1, done)
        print(f"\r{done} of {total} answers, {left / 60:.0f} min to go   ", end="", file=sys.stderr)

    judge = ExactAnswer()
    samples = embedded_samples(options.samples)
    rows = sweep(foveate.load(), samples, cells, judge, study=study, batch=options.batch, progress=progress)
    print(file=sys.stderr)
    return summary(rows, judge.name, judge.score)


def p_value(found: Comparison, entry: Entry, baseline: str) -> str:
    """Exact McNemar against a baseline at the same budget, and which of them it favours."""
    mine = scores(found, entry.label, entry.budget)
    its = scores(found, baseline, entry.budget)
    pairs = [(mine[s], its[s]) for s in mine.keys() & its.keys()]
    gained, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    if entry.label == baseline or gained == lost:
        return "="
    p = mcnemar(lost, gained)
    sign = "+" if gained > lost else "−"
    return f"{sign} {'< 0.001' if p < 0.001 else f'{p:.3f}'}" + ("" if p < 0.05 else " (n.s.)")


def scores(found: Comparison, label: str, budget: str | None) -> dict[str, float]:
    """Score of each sample of one contender at one budget."""
    mine = (r for r in found.rows if (r["method"], r["budget"]) == (label, budget) and not r["error"])
    return {r["sample"]: float(r[found.score]) for r in mine}


def markdown(found: Comparison, samples: int) -> str:
    """The page."""
    plain = next(e for e in found.entries if e.label == "uncompressed")
    methods = foveate.all_methods()
    lines = [
        "# Leaderboard",
        "",
        "<!-- generated: python benchmarks/leaderboard.py --write -->",
        "",
        f"All methods on the embedded model, {samples} held-out questions, at equal T_eq; uncompressed it answers",
        f"{plain.score.mean:.3f} of them. Intervals are 95 %; beside them the exact McNemar p-value against random and",
        "uniform on the same questions, + where the method is better. Methods made for videos (v) see one frame here:",
        "they are there for completeness. The model is small and its world simple: a microscope for methods, not a",
        "ranking of them for your model.",
    ]
    budgets = [b for b in dict.fromkeys(e.budget for e in found.entries) if b is not None]
    for budget in budgets:
        lines += [
            "",
            f"## {budget}",
            "",
            "| method | accuracy | T_eq | against random | against uniform |",
            "|---|---|---|---|---|",
        ]
        for e in (e for e in found.entries if e.budget == budget):
            video = " (v)" if e.label in methods and methods[e.label].card.modality == NEEDS_TIME else ""
            low, high = e.score.low or 0, e.score.high or 0
            against = " | ".join(p_value(found, e, b) for b in BASELINES)
            lines.append(
                f"| {e.label}{video} | {e.score.mean:.3f} ({low:.3f} to {high:.3f}) | {e.t_eq:.1f} | {against} |"
            )
        out = sorted(label for label, b in found.missing if b == budget)
        if out:
            lines += ["", "Not here:", "", *(f"- {label}: {found.missing[label, budget]}" for label in out)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--methods", nargs="+", help="only these, beside the baselines")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--study", help="keep the answers in this folder, so that --resume can go on")
    parser.add_argument("--resume", help="go on with the answers in this folder")
    parser.add_argument("--write", action="store_true", help="write docs/leaderboard.md")
    options = parser.parse_args()
    page = markdown(judged(options), options.samples)
    if options.write:
        DOCS.write_text(page)
    print(page)


if __name__ == "__main__":
    main()

"""Accuracy of the embedded model under every method, at 100, 50, 25 and 10 % of the visual tokens.

`keep` is each method's own: the fraction left by its strongest cut before the language model, or at its cut inside it;
T_eq (visual tokens per layer, averaged) stands beside each figure, because methods that cut late cost more at the same
keep. Questions are the held-out evaluation set of `foveate.scenes`; answers are exact matches.

    python benchmarks/accuracy.py [--samples 500] [--keep 0.5 0.25 0.1] [--markdown] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

import foveate
from foveate.compose import TwoStage
from foveate.method import Method
from foveate.ops.schedule import Pyramid
from foveate.scenes import Sample, evaluation_set, is_correct


@dataclass
class Result:
    """Right answers by kind of question, and the tokens they took."""

    right: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    t_eq: list[float] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """Over all questions."""
        every = [r for kind in self.right.values() for r in kind]
        return sum(every) / len(every)

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of the accuracy."""
        n = sum(map(len, self.right.values()))
        return 1.96 * math.sqrt(self.accuracy * (1 - self.accuracy) / n)

    @property
    def mean_t_eq(self) -> float:
        """Visual tokens per layer and question."""
        return sum(self.t_eq) / len(self.t_eq)


def contenders(keep: float) -> dict[str, Method]:
    """All methods at one keep, and one pair of stages."""
    named = {name: foveate.get_method(name, keep=keep) for name in foveate.all_methods() if name != "progressive"}
    named["pool + pyramid"] = TwoStage(
        merge=foveate.get_method("pool", keep=min(1.0, 2 * keep)),
        prune=foveate.get_method("progressive", schedule=Pyramid(0.5, 3)),
    )
    return named


def batches(samples: list[Sample], size: int) -> Iterator[list[Sample]]:
    """The samples, `size` at a time."""
    for i in range(0, len(samples), size):
        yield samples[i : i + size]


def evaluate(loaded: foveate.load, samples: list[Sample], method: Method | None, batch: int) -> Result:
    """Greedy answers of the model under a method; None is the model as it is."""
    model, processor = loaded.model, loaded.processor
    result = Result()
    for part in batches(samples, batch):
        chats = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": s.question}]}] for s in part]
        texts = [processor.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
        inputs = processor(text=texts, images=[s.image for s in part], padding=True, return_tensors="pt")
        with torch.no_grad(), foveate.compress(model, method or foveate.get_method("uniform", keep=1.0)) as run:
            out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        answers = processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for sample, answer in zip(part, answers, strict=True):
            result.right[sample.kind].append(is_correct(answer, sample.answer))
        result.t_eq += [run.trace.t_eq / len(part)] * len(part)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.25, 0.1])
    parser.add_argument("--methods", nargs="+", help="only these")
    parser.add_argument("--model", help="another checkpoint folder")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--markdown", action="store_true", help="print the table as in the README")
    parser.add_argument("--json", help="write all figures, by kind of question, to this file")
    options = parser.parse_args()

    loaded = foveate.load(options.model)
    samples = evaluation_set(options.samples, seed=0)
    start = time.perf_counter()
    plain = evaluate(loaded, samples, None, options.batch)
    results: dict[str, dict[float, Result]] = {}
    names = options.methods or list(contenders(0.25))
    for name in names:
        for keep in options.keep:
            print(f"\r{time.perf_counter() - start:5.0f} s  {name} {keep:g}      ", end="", file=sys.stderr)
            results.setdefault(name, {})[keep] = evaluate(loaded, samples, contenders(keep)[name], options.batch)
    print(file=sys.stderr)
    show(plain, results, options)


def show(plain: Result, results: dict[str, dict[float, Result]], options: argparse.Namespace) -> None:
    """The table; best method first at the middle keep."""
    middle = sorted(options.keep)[len(options.keep) // 2]
    order = sorted(results, key=lambda name: -results[name][middle].accuracy)
    kinds = ", ".join(f"{k} {sum(v) / len(v):.2f}" for k, v in sorted(plain.right.items()))
    n = sum(map(len, plain.right.values()))
    print(f"uncompressed: {plain.accuracy:.3f} ± {plain.margin:.3f} on {n} questions ({kinds})")
    head = ["method", *(f"keep {k:g}" for k in options.keep)]
    rows = [[name, *(f"{r.accuracy:.3f} (T_eq {r.mean_t_eq:.0f})" for r in results[name].values())] for name in order]
    if options.markdown:
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        print("\n".join("| " + " | ".join(row) + " |" for row in rows))
    else:
        for row in [head, *rows]:
            print(f"{row[0]:<16}" + "".join(f"{cell:>22}" for cell in row[1:]))
    if options.json:
        figures = {
            "uncompressed": as_json(plain),
            "methods": {m: {f"{k:g}": as_json(r) for k, r in by.items()} for m, by in results.items()},
        }
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)


def as_json(result: Result) -> dict:
    """Figures of one result."""
    kinds = {k: round(sum(v) / len(v), 4) for k, v in sorted(result.right.items())}
    return {
        "accuracy": round(result.accuracy, 4),
        "margin": round(result.margin, 4),
        "t_eq": result.mean_t_eq,
        "kinds": kinds,
    }


if __name__ == "__main__":
    main()

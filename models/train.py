"""Train the embedded model from nothing on a CPU: ``python models/train.py --out DIR --minutes 90``.

First the vision tower alone learns what lies under each visual token, on small images; then it rests while the
language model learns to answer; then both go on together. Two processes of one thread each share the work (a thread
team of two suffers more from a busy machine). Muon trains the matrices, AdamW the rest; the learning rate falls to
zero by the clock, so the time given is the time taken. The run can be stopped at any moment and taken up again with
``--resume``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import batches
import build
import torch
import transformers
from batches import IGNORE, VISION_HEADS, Batch, Encoder, make_batch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from foveate import scenes

MIDDLE = 3
"""After so many LLM layers each visual token is asked for its place, early in the training."""
JUDGED = 504
"""Samples of the final evaluation: seventy-two a kind."""


@dataclass
class Progress:
    """How far the training is; saved with the weights."""

    step: int = 0
    seconds: float = 0.0
    images: int = 0
    questions: int = 0


class Probes(nn.Module):
    """Linear heads for the auxiliary losses; they are not part of the model that is shipped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vision = nn.Linear(width, sum(size for _, size in VISION_HEADS))
        self.place = nn.Linear(width, len(scenes.PLACES))


def vision_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy of what lies under each token; "nothing" counts a fifth, as it is common."""
    total = torch.zeros(())
    for head, (part, (name, size)) in enumerate(
        zip(logits.split([size for _, size in VISION_HEADS], -1), VISION_HEADS, strict=True)
    ):
        weight = torch.ones(size)
        weight[0 if name == "centre" else -1] = 0.2
        total = total + F.cross_entropy(
            part.flatten(0, 1), labels[..., head].flatten(), weight=weight, ignore_index=IGNORE
        )
    return total


# ------------------------------------------------------------------------------------------------ the optimizer
class Muon:
    """Momentum whose direction is orthogonalised, in float32, for matrices of one shape at once; ranks share the work.

    Source: Jordan et al., "Muon" (2024); the scale that matches AdamW's from Liu et al. (arXiv 2502.16982).
    """

    def __init__(self, parameters: list[nn.Parameter], rank: int, world: int) -> None:
        self.parameters, self.rank, self.world = parameters, rank, world
        self.momentum = [torch.zeros_like(p) for p in parameters]
        self.same_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for i, p in enumerate(parameters):
            self.same_shape[p.shape].append(i)

    @torch.no_grad()
    def step(self, lr: float, decay: float = 0.01, momentum: float = 0.95) -> None:
        updates = [torch.zeros_like(p) for p in self.parameters]
        turn = 0
        for shape, everyone in self.same_shape.items():
            members = [i for i in everyone if self.parameters[i].grad is not None]
            for i in members:
                self.momentum[i].mul_(momentum).add_(self.parameters[i].grad)
            mine = [i for n, i in enumerate(members, turn) if n % self.world == self.rank]
            turn += len(members)
            if mine:
                x = torch.stack([self.parameters[i].grad + momentum * self.momentum[i] for i in mine])
                for i, update in zip(mine, orthogonal(x), strict=True):
                    updates[i].copy_(update).mul_(0.2 * max(shape) ** 0.5)
        if self.world > 1:
            flat = torch.cat([u.flatten() for u in updates])
            dist.all_reduce(flat)
            sizes = [p.numel() for p in self.parameters]
            parts = zip(flat.split(sizes), self.parameters, strict=True)
            updates = [part.view_as(p) for part, p in parts]
        for p, update in zip(self.parameters, updates, strict=True):
            if p.grad is None:
                continue
            p.mul_(1 - lr * decay).sub_(update, alpha=lr)


def orthogonal(x: Tensor, steps: int = 5) -> Tensor:
    """Return about the nearest orthogonal matrices by Newton-Schulz iteration."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


# ------------------------------------------------------------------------------------------------ the run
class Run:
    """One process of the training."""

    def __init__(self, options: argparse.Namespace, rank: int, world: int) -> None:
        self.options, self.rank, self.world = options, rank, world
        self.out = Path(options.out)
        torch.manual_seed(options.seed)
        self.encoder = Encoder(AutoTokenizer.from_pretrained(self.out))
        config = build.make_config(self.encoder.tokenizer)
        self.model = Qwen2_5_VLForConditionalGeneration(config)
        self.model.train()
        self.probes = Probes(config.text_config.hidden_size)
        self.named = dict([*self.model.named_parameters(), *self.probes.named_parameters("probes")])
        adam = ("embed", "probes")
        matrix = [n for n, p in self.named.items() if p.ndim == 2 and not any(part in n for part in adam)]
        self.muon = Muon([self.named[n] for n in matrix], rank, world)
        rest = [p for n, p in self.named.items() if n not in matrix]
        self.adam = torch.optim.AdamW(rest, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0)
        self.progress = Progress()
        self.weights = dict.fromkeys(scenes.KINDS, 1.0)
        self.recent: dict[str, float] = {}
        if options.resume:
            self.load()

    # -------------------------------------------------------------------------------------------- schedule
    def total(self) -> float:
        return self.options.minutes * 60

    def only_vision(self) -> bool:
        return self.progress.seconds < self.options.vision * self.total()

    def frozen(self) -> bool:
        """Say whether the vision tower rests while the language model learns to use what it already sees."""
        return not self.only_vision() and self.progress.seconds < self.options.frozen * self.total()

    def rate(self) -> float:
        """Return the learning rate's factor: a warm-up for each phase, then flat, then down to nothing."""
        share = self.progress.seconds / self.total()
        since = share if self.only_vision() else share - self.options.vision
        return max(0.01, min(1.0, 0.1 + since / 0.01, (1 - share) / 0.45))

    def size(self, rng: random.Random) -> tuple[int, int]:
        """Choose the size of the next batch's images, the same on all ranks: small ones first."""
        share = self.progress.seconds / self.total()
        if self.only_vision():
            return rng.choice([(168, 168), (168, 168), (168, 168), (224, 224)])
        full = self.options.full if share < 0.6 else 0.6
        draw = rng.random()
        if draw < full:
            return 336, 336
        if draw < full + 0.1:
            return 28 * rng.randint(6, 14), 28 * rng.randint(6, 14)
        return 224, 224

    # -------------------------------------------------------------------------------------------- one step
    def batch(self) -> Batch:
        shared = random.Random(f"{self.options.seed}-{self.progress.step}")
        size = self.size(shared)
        # A batch has about equal work whatever the images' size.
        room = (64 if self.only_vision() else 110) / (64 if self.only_vision() else size[0] * size[1] / 28**2 + 46)
        count = max(4, round((24 if self.only_vision() else self.options.batch) * room))
        first = (self.progress.step * self.world + self.rank) * 1000
        made = [scenes.make_scene(self.options.seed * 10**9 + first + i, size, "train") for i in range(count)]
        made = [batches.recompressed(scene, shared) if shared.random() < 0.25 else scene for scene in made]
        asked = [[] if self.only_vision() else self.choose(shared, scene) for scene in made]
        return make_batch(self.encoder, made, asked, self.weights)

    def choose(self, rng: random.Random, scene: scenes.Scene) -> list[scenes.Question]:
        """Choose one question of each kind and several of those that are learnt last: what is there, and how many."""
        asked = {q.kind: q for q in rng.sample(scene.questions, len(scene.questions))}
        shapes = [(t.shape, t.color) for t in scene.things if t.color]
        names = rng.sample(shapes, min(2, len(shapes)))
        names += [(rng.choice(shapes)[0], rng.choice(tuple(scenes.COLORS))) for _ in range(2)]
        names += [(rng.choice(scenes.SHAPES), rng.choice(shapes)[1]) for _ in range(1)]
        more = [scenes.ask_exist(scene.things, *name) for name in names]
        more += [scenes.ask_count(scene.things, shape) for shape in rng.sample(scenes.SHAPES, 2)]
        more.append(scenes.ask_count(scene.things, rng.choice(shapes)[0]))
        return [self.reword(rng, q) for q in [*asked.values(), *more]]

    @staticmethod
    def reword(rng: random.Random, q: scenes.Question) -> scenes.Question:
        text = q.text.lower() if rng.random() < 0.1 else q.text
        return scenes.Question(q.kind, text.rstrip("?") if rng.random() < 0.05 else text, q.answer, q.boxes)

    def loss(self, batch: Batch) -> Tensor:
        with torch.set_grad_enabled(not self.frozen()):
            visual = batches.see(self.model, batch.pixels)
            dense = vision_loss(self.probes.vision(visual), batch.labels)
        self.note(vision=dense.item())
        if self.only_vision():
            return dense
        logits, between = batches.answer(self.model, batch, visual, MIDDLE)
        place = F.cross_entropy(self.probes.place(between).flatten(0, 1), batch.places.flatten())
        asked = batch.target != IGNORE
        each = F.cross_entropy(logits, batch.target[asked], reduction="none")
        weight = batch.weight[asked]
        loss = (each * weight).sum() / weight.sum()
        self.note(place=place.item(), answer=loss.item())
        share = self.progress.seconds / self.total()
        return loss + 0.3 * dense + 0.3 * max(0.1, 1 - share) * place

    def note(self, **values: float) -> None:
        for name, value in values.items():
            self.recent[name] = 0.95 * self.recent.get(name, value) + 0.05 * value

    def step(self) -> None:
        batch = self.batch()
        self.loss(batch).backward()
        parameters = [p for p in self.named.values() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in parameters])
        now = time.monotonic()
        clock, self.mark = torch.tensor([now - self.mark]), now
        if self.world > 1:
            flat = torch.cat([flat, clock])
            dist.all_reduce(flat)
            flat /= self.world
            flat, clock = flat[:-1], flat[-1:]
        norm = float(flat.norm())
        flat *= min(1.0, 1.0 / (norm + 1e-6))
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)
        self.muon.step(self.options.muon_lr * self.rate())
        self.adam.param_groups[0]["lr"] = self.options.lr * self.rate()
        self.adam.step()
        for p in parameters:
            p.grad = None
        self.progress.step += 1
        self.progress.seconds += float(clock)
        self.progress.images += len(batch.pixels) * self.world
        self.progress.questions += sum(map(len, batch.questions)) * self.world

    def train(self) -> None:
        p = self.progress
        evaluated = saved = p.seconds
        self.mark = time.monotonic()
        while p.seconds < self.total():
            self.step()
            if p.step % 20 == 0:
                self.log(**vars(p), rate=self.rate(), **self.recent)
            if not self.only_vision() and p.seconds - evaluated > self.options.evaluate * 60:
                accuracy = self.evaluate(140, seed=1)
                # Kinds that lag count more from now on.
                self.weights = {kind: 0.4 + 2.0 * (1 - accuracy[kind]) for kind in scenes.KINDS}
                evaluated = p.seconds
            if p.seconds - saved > 120:
                self.save()
                saved = p.seconds
        self.save()
        columns = {show: self.evaluate(JUDGED, show=show) for show in batches.SHOWN}
        if self.rank == 0:
            build.write_card(self.out, self.facts(), {"guess": build.guesses(JUDGED), **columns})

    # -------------------------------------------------------------------------------------------- judging
    @torch.no_grad()
    def evaluate(self, n: int, seed: int = 0, show: str = "all") -> dict[str, float]:
        """Return the exact-match accuracy per kind on held-out scenes; each rank judges its share.

        ``show`` says which visual tokens may be seen (``batches.SHOWN``).
        """
        samples = scenes.evaluation_set(n, seed)[self.rank :: self.world]
        right = torch.zeros(len(scenes.KINDS), 2)
        for at in range(0, len(samples), 14):
            part = samples[at : at + 14]
            asked = [[scenes.Question(s.kind, s.question, s.answer, s.boxes)] for s in part]
            made = [scenes.Scene(s.image, (), ()) for s in part]
            batch = make_batch(self.encoder, made, asked, {})
            hidden = torch.stack([batches.hidden_tokens(sample, show, at + i) for i, sample in enumerate(part)])
            visual = batches.see(self.model, batch.pixels)
            logits, _ = batches.answer(self.model, batch, visual, MIDDLE, hidden)
            where = batch.target != IGNORE
            wrong = torch.zeros(len(part)).index_add_(
                0, where.nonzero()[:, 0], (logits.argmax(-1) != batch.target[where]).float()
            )
            for sample, errors in zip(part, wrong.tolist(), strict=True):
                right[scenes.KINDS.index(sample.kind)] += torch.tensor([errors == 0, 1.0])
        if self.world > 1:
            dist.all_reduce(right)
        accuracy = {kind: round(float(r / t), 4) for kind, (r, t) in zip(scenes.KINDS, right, strict=True)}
        accuracy["overall"] = round(float(right[:, 0].sum() / right[:, 1].sum()), 4)
        self.log(step=self.progress.step, seconds=self.progress.seconds, show=show, accuracy=accuracy)
        return accuracy

    def log(self, **values: object) -> None:
        if self.rank == 0:
            line = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
            print(line, flush=True)
            with open(self.out / "log.jsonl", "a") as file:
                file.write(line + "\n")

    # -------------------------------------------------------------------------------------------- files
    def facts(self) -> dict[str, object]:
        """Return what the model card says about this run."""
        p, shown = self.progress, ("minutes", "vision", "frozen", "full", "batch", "muon_lr", "lr", "processes")
        return {
            "seed": self.options.seed,
            "parameters": f"{sum(w.numel() for w in self.model.parameters()):,}",
            "steps": f"{p.step:,}",
            "images seen": f"{p.images:,}",
            "questions seen": f"{p.questions:,}",
            "time": f"{p.seconds / 60:.0f} minutes",
            "machine": f"{os.cpu_count()}-core {platform.machine()} CPU, no GPU, {self.world} processes of one thread",
            "software": f"torch {torch.__version__}, transformers {transformers.__version__}",
            "options": " ".join(f"{name}={getattr(self.options, name)}" for name in shown),
        }

    def save(self) -> None:
        if self.rank:
            return
        self.model.save_pretrained(self.out)
        state = dict(
            probes=self.probes.state_dict(),
            momentum=self.muon.momentum,
            adam=self.adam.state_dict(),
            progress=vars(self.progress),
            weights=self.weights,
        )
        torch.save(state, self.out / "state.partial")
        os.replace(self.out / "state.partial", self.out / "state.pt")

    def load(self) -> None:
        trained = Qwen2_5_VLForConditionalGeneration.from_pretrained(self.out, dtype=torch.float32)
        self.model.load_state_dict(trained.state_dict())
        state = torch.load(self.out / "state.pt")
        self.probes.load_state_dict(state["probes"])
        self.muon.momentum = state["momentum"]
        self.adam.load_state_dict(state["adam"])
        self.progress = Progress(**state["progress"])
        self.weights = state["weights"]


def process(rank: int, options: argparse.Namespace) -> None:
    """Be one of the processes."""
    torch.set_num_threads(1)
    if options.processes > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{Path(options.out).resolve()}/rendezvous",
            rank=rank,
            world_size=options.processes,
            timeout=timedelta(minutes=20),
        )
    Run(options, rank, options.processes).train()
    if options.processes > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=90, help="time on the clock for the whole training")
    parser.add_argument("--vision", type=float, default=0.07, help="share of the time for the vision tower alone")
    parser.add_argument("--frozen", type=float, default=0.7, help="share of the time until which the tower then rests")
    parser.add_argument("--full", type=float, default=0.45, help="share of 336-pixel batches until 60 %% of the time")
    parser.add_argument("--batch", type=int, default=16, help="images of 224 pixels a process and step")
    parser.add_argument("--muon-lr", type=float, default=5e-3)
    parser.add_argument("--lr", type=float, default=3e-3, help="AdamW's learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--evaluate", type=float, default=5, help="minutes between evaluations")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "rendezvous").unlink(missing_ok=True)
    if not options.resume:
        build.save_processor(build.make_tokenizer(), out)
    torch.multiprocessing.spawn(process, (options,), nprocs=options.processes)
    (out / "rendezvous").unlink(missing_ok=True)


if __name__ == "__main__":
    main()

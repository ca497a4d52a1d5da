"""A needle in a picture: the few tokens that hold the answer survive a method whose signal knows them.

Scenes of the embedded model's world come with the boxes of what is asked about. A random choice leaves as large a share
of those tokens as of all tokens; a method whose signal tells them apart leaves clearly more, over scenes of many seeds.
"""

from functools import cache

import pytest
import torch

from foveate import all_methods, compress, get_method, load
from foveate.scenes import evaluation_set

KEEP = 0.25
CELL = 28
#: methods that cannot tell the needle from the rest of a single image, and what they look at instead
BLIND = {
    "random": "chance",
    "uniform": "geometry",
    "pool": "geometry",
    "fewer-frames": "time",
    "evs": "change over time",
    "dtd": "change over time",
    "dycoke": "change over time",
    "vtw": "nothing: it keeps all, then none",
    "ficoco": "nothing: this model's tower cannot be cut",
    "aim": "representatives: most of the needle is merged, not dropped",
    "prunevid": "clusters of a single frame, which merge the needle",
    "tome": "representatives: the needle is merged, not dropped",
    "v2drop": "change between layers, down to one token",
    "transprune": "transitions, which small objects hardly make in this model",
}


@cache
def asked():
    """A batch of questions whose evidence covers one to six tokens, as inputs, and those tokens."""
    loaded = load()
    samples = [s for s in evaluation_set(120, seed=3) if 1 <= len(cells(s.boxes)) <= 6][:24]
    turns = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": s.question}]}] for s in samples]
    texts = [loaded.processor.apply_chat_template(t, add_generation_prompt=True, tokenize=False) for t in turns]
    images = [s.image for s in samples]
    return loaded.model, loaded.processor(text=texts, images=images, padding=True, return_tensors="pt"), samples


def cells(boxes):
    """Raster indices of the tokens that a box covers by at least half in each direction."""
    found = set()
    for left, top, right, bottom in boxes:
        columns = [x for x in range(12) if min(right, (x + 1) * CELL) - max(left, x * CELL) >= CELL / 2]
        rows = [y for y in range(12) if min(bottom, (y + 1) * CELL) - max(top, y * CELL) >= CELL / 2]
        found |= {y * 12 + x for y in rows for x in columns}
    return sorted(found)


def shares_left(method):
    """For each question the share of its evidence, and of all tokens, behind the last cut that leaves anything."""
    model, inputs, samples = asked()
    with compress(model, method) as run:
        model(**inputs)
    alive = [torch.arange(144) for _ in samples]
    for cut in run.trace.cuts:
        if cut.reduction.kept.shape[1]:
            alive[cut.sample] = alive[cut.sample][cut.reduction.kept[0]]
    needles = [cells(s.boxes) for s in samples]
    found = [len(set(n) & set(left.tolist())) / len(n) for n, left in zip(needles, alive, strict=True)]
    return torch.tensor(found), torch.tensor([len(left) / 144 for left in alive])


@pytest.mark.parametrize("name", sorted(set(all_methods()) - set(BLIND)))
def test_the_needle_survives(name):
    found, all_tokens = shares_left(get_method(name).with_keep(KEEP))
    more = found - all_tokens
    clearly = max(0.05, 3 * float(more.std()) / len(more) ** 0.5)
    assert more.mean() > clearly, f"{found.mean():.2f} of the needle is left, and {all_tokens.mean():.2f} of all tokens"


@pytest.mark.parametrize("name", sorted(n for n, why in BLIND.items() if why in ("chance", "geometry")))
def test_chance_and_geometry_do_not_know_it(name):
    found, all_tokens = shares_left(get_method(name).with_keep(KEEP))
    assert abs(float((found - all_tokens).mean())) < 0.2

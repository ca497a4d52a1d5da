"""Rows as the measuring commands write them, made by hand."""

HOSTILE = '</script><img src=x onerror="alert(1)"> <!-- {{ 7 * 7 }} & http://example.com/?a=1'
LEVELS = ("T_eq 50%", "T_eq 25%")


def accuracy(method, budget, sample, correct, **more):
    row = {"kind": "accuracy", "method": method, "settings": {}, "budget": budget, "keep": None, "sample": sample}
    said = {"answer": "red" if correct else "blue", "truth": "red", "question": f"What is {sample}?"}
    if sample == "s3":
        said |= {"question": HOSTILE, "answer": HOSTILE if correct else "blue"}
    kind = {"question_kind": "color" if int(sample[1:]) % 2 else "shape", "visual_tokens": 16, "t_eq": 16.0}
    return row | kind | said | {"error": None, "correct": correct} | more


def bench(method, budget, times, tokens_per_layer):
    numbers = {}
    for name, value in times.items():
        numbers |= {name: value, f"{name}_q1": 0.9 * value, f"{name}_q3": 1.2 * value}
    counts = {"batch": 1, "runs": 5, "visual_tokens": 16, "text_tokens": 9, "new_tokens": 8, "kv_bytes": 4096}
    counts |= {"peak_memory_bytes": 1 << 20, "peak_memory_kind": "resident set", "prefill_flops": 3e9}
    counts |= {"prefill_flops_computed": 2e9, "vision_flops": 1e9, "prompts_per_s": 5.0, "tokens_per_s": 40.0}
    row = {"kind": "bench", "method": method, "settings": {}, "budget": budget, "keep": None, "sample": "s1"}
    layers = {"tokens_per_layer": tokens_per_layer, "t_eq": sum(tokens_per_layer) / len(tokens_per_layer)}
    return row | {"error": None} | counts | layers | numbers


def times(vision, selection, prefill, total):
    return {
        "vision_ms": vision, "selection_ms": selection, "prefill_ms": prefill, "ttft_ms": vision + prefill,
        "total_ms": total, "decode_ms_per_token": (total - vision - prefill) / 8,
    }  # fmt: skip


FASTV = {"keep": 0.4, "layer": 2}


def overlay(method, budget, sample):
    """Two grids of one image (four by two, and two by two): a cut of each, one of both, one merge."""
    row = {"kind": "overlay", "method": method, "settings": {}, "budget": budget, "keep": None, "sample": sample}
    steps = [
        {"at": "projector", "by": "Cls", "cuts": [{"of": [0], "owner": [0, 0, 2, -1, 4, -1, -1, 7]}]},
        {"at": "layer 3", "by": "LastQuery", "cuts": [{"of": [0, 1], "owner": [-1, 1, 1, 3, -1, 5, 5, -1]}]},
    ]
    views = [{"grid": 0, "frame": 0, "picture": 0}, {"grid": 1, "frame": 0, "picture": None}]
    return row | {
        "error": None, "grids": [[1, 2, 4], [1, 2, 2]], "views": views, "steps": steps,
        "tokens_per_layer": [8, 8, 8, 3], "visual_tokens": 12, "t_eq": 6.75,
    }  # fmt: skip


def trial(number, state, **more):
    row = {"kind": "trial", "trial": number, "method": "fastv", "settings": {"keep": 0.1 * (number + 1)}, "keep": None}
    return row | {"sample": None, "state": state, "why": None, "questions": 8, "error": None, "feasible": False} | more

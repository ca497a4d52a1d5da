"""Peak extra memory of AIM's PageRank in chunks, measured, beside the bytes the published code needs, computed.

    python benchmarks/pagerank_memory.py [--tokens 20000] [--heads 28] [--kv-heads 4] [--head-dim 16] [--chunk 128]

A child process makes q and k, runs `pagerank` on 64 tokens so that libraries are loaded, and reads its resident set
before the run of interest (/proc/self/statm) and the highest one after it (getrusage): the difference is everything the
function holds at its worst, its result included, and never too low. The head dim changes the time and the copies of q
and k, not the logits: 16 by default, to be quick on a CPU; the models have 128. Published: 16 * H * N^2 bytes (float32
logits, a copy, logits / tau, softmax), derived from the released code, per layer. The last line is JSON. Linux.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path


def resident_bytes() -> int:
    """What this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def child(tokens: int, heads: int, kv_heads: int, head_dim: int, chunk: int) -> dict[str, float]:
    """Runs once in this process; measured_bytes: peak resident set less that before."""
    import torch

    from foveate.ops.pagerank import pagerank

    torch.manual_seed(0)
    with torch.no_grad():
        q = torch.randn(1, heads, tokens, head_dim)
        k = torch.randn(1, kv_heads, tokens, head_dim)
        pagerank(q[:, :, :64], k[:, :, :64], head_dim**-0.5)
        before = resident_bytes()
        start = time.perf_counter()
        rank = pagerank(q, k, head_dim**-0.5, chunk=chunk)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if not rank.isfinite().all():
        raise SystemExit("pagerank returned a number that is not finite")
    return {
        "measured_bytes": after - before,
        "time_s": round(seconds, 2),
        "torch_threads": torch.get_num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 20000), ("heads", 28), ("kv-heads", 4), ("head-dim", 16), ("chunk", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if options.pop("child"):
        print(json.dumps(child(**options)))
        return
    command = [sys.executable, __file__, "--child"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    published = 16 * options["heads"] * options["tokens"] ** 2
    extra, seconds = measured["measured_bytes"], measured["time_s"]
    print(
        f"pagerank of {options['tokens']} tokens, {options['heads']} heads of {options['head_dim']}, one layer, batch 1"
    )
    print(f"measured  {extra / 1e6:12.1f} MB  one run of {seconds} s, {measured['torch_threads']} threads")
    print(f"published {published / 1e6:12.1f} MB  computed: 16 * H * N^2")
    print(f"ratio     {published / max(1, extra):12.0f}")
    print(json.dumps({**options, **measured, "published_bytes": published, "machine": platform.platform(), "runs": 1}))


if __name__ == "__main__":
    main()

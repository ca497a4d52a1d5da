"""The record of machine and versions that a measured number comes with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from .. import __version__


def versions() -> dict[str, str]:
    """What the numbers depend on."""
    found = {"foveate": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in ("torch", "transformers")}


def machine() -> dict[str, Any]:
    """Processor, memory, GPUs, threads, and how busy it was; no name of a host or a person.

    load is the number of processes that wanted to run in the last minute: where others did, timings are noise.
    """
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "gpus": [{"name": g.name, "memory_bytes": g.total_memory} for g in gpus],
        "cuda": torch.version.cuda,
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

"""Compute settings → a torch device, with threads and the allocator set for steady batches."""

import ctypes
import os
import sys
from functools import cache

import torch

from discovery.config import ComputeConfig
from discovery.errors import ConfigError

_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # from malloc.h


def device_for(compute: ComputeConfig) -> torch.device:
    """Returns the device to compute on and prepares the process for it.

    Raises:
        ConfigError: the device does not exist here.
    """
    _keep_large_blocks()
    torch.set_num_threads(
        compute.threads or len(os.sched_getaffinity(0))
        if sys.platform == "linux"
        else compute.threads or os.cpu_count() or 1
    )
    name = compute.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"compute.device = {compute.device!r} is not here; choose auto or cpu") from error
    return torch.device(name)


@cache
def _keep_large_blocks() -> None:
    """Keeps glibc from returning every activation to the system between layers.

    A batch's activations are far above malloc's mmap threshold, so each layer pays page faults for all of them:
    Kept blocks make large batches several times faster on a CPU.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)

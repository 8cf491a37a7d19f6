"""What is done with the memory of freed tensors: by the C library on a CPU, by torch on a GPU."""

import ctypes
import gc
import platform
import sys

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensors, for the rest of this process.

    glibc maps every block above its threshold (32 MiB at most by itself) anew and gives freed ones
    back, so each large intermediate result is zeroed page by page by the kernel before it is
    written. Here blocks up to 1 GiB come from the heap, of which up to 2 GiB stay when free. No
    number changes: only where tensors lie.

    Returns:
        Whether the C library took it: glibc does, those of macOS and Alpine do not.
    Source: glibc 2.36, malloc/malloc.c (`mallopt`, `do_set_mmap_threshold`); mallopt(3)
    """
    if not GLIBC:
        return False
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    settings = {mmap_threshold: 2**30, trim_threshold: 2**31 - 1, top_pad: 64 * 2**20}
    mallopt = ctypes.CDLL(None).mallopt
    taken = [mallopt(name, value) for name, value in settings.items()]
    return all(taken)


def give_back_freed_memory() -> None:
    """Hand what is free at the moment to the system, before another model or process needs it.

    The counterpart of `keep_freed_memory`: kept memory serves the next step of the same work, but
    beside another process it is only missing. The same holds for what torch keeps on a GPU: to any
    other process it is taken.

    Source: malloc_trim(3)
    """
    gc.collect()  # a trainer and its model refer to each other
    torch = sys.modules.get("torch")  # who has not imported it keeps nothing on a GPU
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if GLIBC:
        ctypes.CDLL(None).malloc_trim(0)

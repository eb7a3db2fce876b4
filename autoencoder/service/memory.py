"""Memory of a process that computes one request after the other on a CPU."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGEST_MMAP_THRESHOLD = 2**25  # glibc takes no more


def keep_freed_memory() -> bool:
    """Let this process keep the memory of freed tensors, up to 32 MiB each, for the next ones.

    By default glibc returns large blocks to the system at once and faults every page in anew: a sixth of the time of
    encoding a crop. The process's peak stays as it was, but it falls back to less only in part.

    Returns: Whether the C library took it; other systems than Linux with glibc stay as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))

"""The processors of this machine that may be used here."""

import os

__all__ = ["allowed_processors"]


def allowed_processors() -> list[int]:
    """Those that this thread may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

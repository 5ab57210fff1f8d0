"""Signals in a loader process, which belong to the process that it works for."""

from __future__ import annotations

import signal

GRACE = 60
"""Seconds by which a loader process outlives SIGTERM."""


def outlive_signals() -> None:
    """Leaves Ctrl-C and SIGTERM to the training loop, which stores its state and then ends its loaders.

    A terminal and a cluster's scheduler tell all processes of a run at once: a loader that ended first would tear the
    loop out of its iteration, and what can be resumed would be lost. One that nobody ends goes after ``GRACE``.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):  # not on Windows
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))

"""Teach a checkpoint new classes from your own annotations.

The same as ``incdet extend``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("extend"))

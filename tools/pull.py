"""Fetch a detector from a hub, or from a folder.

The same as ``incdet pull``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("pull"))

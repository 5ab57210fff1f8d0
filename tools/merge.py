"""Make one detector of two, with the classes of both.

The same as ``incdet merge``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("merge"))

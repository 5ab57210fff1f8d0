"""Train a protocol: step 1, then every later step with every method.

The same as ``incdet train``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("train"))

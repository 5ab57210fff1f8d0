"""Find the threshold of each class on labelled pictures, and store it in the checkpoint.

The same as ``incdet calibrate``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("calibrate"))

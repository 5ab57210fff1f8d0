"""Look whether this machine is ready: versions, device, OpenCV, disk, speed of a training step.

The same as ``incdet doctor``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("doctor"))

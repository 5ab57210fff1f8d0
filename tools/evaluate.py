"""Score a checkpoint on an annotation file by COCO's rules.

The same as ``incdet evaluate``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("evaluate"))

"""Find the known classes in your own photographs and videos.

The same as ``incdet predict``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("predict"))

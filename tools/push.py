"""Put a detector on a hub, or into a folder.

The same as ``incdet push``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("push"))

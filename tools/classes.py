"""List the classes of a detector; rename, merge, remove or reorder them.

The same as ``incdet classes``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("classes"))

"""Write a detector for other programs, and keep the file only if it finds the same.

The same as ``incdet export``; ``--help`` lists the arguments.
"""

from __future__ import annotations

import sys

from incdet.app.cli import run_tool

if __name__ == "__main__":
    sys.exit(run_tool("export"))

"""``python -m incdet`` is the ``incdet`` command."""

from __future__ import annotations

import sys

from incdet.app.cli import main

sys.exit(main())

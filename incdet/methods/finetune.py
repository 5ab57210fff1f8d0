"""``finetune``: trains on the new labels as if they were all there is; the lower bound."""

from __future__ import annotations

from incdet.methods.method import Method

METHOD = Method("finetune", "the lower bound: everything is declared covered", masked=False)

"""``masked``: leaves the old channels alone where nobody annotated them; coverage without any teacher, an ablation."""

from __future__ import annotations

from incdet.methods.method import Method

METHOD = Method("masked", "coverage alone: old channels are left alone where nobody annotated them")

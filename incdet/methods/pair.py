"""``pair``: old and new detector side by side, the strict way: what the old one finds stays bit for bit what it was.

The new classes get a network of their own (``method.pair.branch.trunk``): ``own`` is a whole second network, trained on
the step's images from the weights of step 1; ``shared`` is a class and a box head on the frozen features of step 1,
which costs a fraction of a forward pass. The box head is its own too: that of old classes was never shown the new ones.
Where an old detection overlaps a new one (IoU > 0.5), the new score is multiplied by one minus the old one
(``incdet.network.paired``). No memory, no teacher: there is nothing that could forget.
"""

from __future__ import annotations

from incdet.methods.method import Branch, Method

METHOD = Method(
    "pair", "ours: the old detector untouched, the new classes beside it, detections merged", branch=Branch()
)

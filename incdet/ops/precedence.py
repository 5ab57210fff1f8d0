"""Earlier classes go first: where one of them is seen, a later class is believed less.

A network that learned a class from pictures which all show it has seen little of what it is not, while the classes of
before were learned from pictures of their own: the old ones know the cow that the new one takes for a sheep.

Shape letters: B images, A anchors over all levels, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def with_precedence(logits: Tensor, sizes: list[int], power: float) -> Tensor:
    """Logits whose scores are those of before times ``(1 - s) ** power``, s the highest earlier score at the anchor.

    The classes of the first step stay as they are, bit for bit. TorchScript compiles it.

    Args:
        logits: (B, A, K), any float dtype; the result has it too.
        sizes: Classes of each step; they sum to K.
        power: How much earlier classes count, at least 0.
    """
    groups = [logits[..., : sizes[0]]]
    first = sizes[0]
    highest = groups[0].amax(dim=-1, keepdim=True).float()
    for size in sizes[1:]:
        own = logits[..., first : first + size]
        score = F.logsigmoid(own.float()) + power * F.logsigmoid(-highest)
        score = score.clamp(max=-1e-6)  # or the logit of a score of 1 would be infinite
        groups.append((score - torch.log1p(-score.exp())).to(logits.dtype))
        highest = torch.maximum(highest, own.amax(dim=-1, keepdim=True).float())
        first += size
    return torch.cat(groups, dim=-1)

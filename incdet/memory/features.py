"""Object features: the pyramid pooled on the annotated boxes, what herding compares images by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from incdet.data.dataset import DetectionDataset, collate
from incdet.data.records import Record
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet

BATCH = 16
"""Images of a forward."""


@torch.no_grad()
def object_features(
    model: IncrementalRetinaNet, records: Sequence[Record], names: Sequence[str], *, batch_size: int = BATCH
) -> dict[str, dict[int, NDArray[np.float32]]]:
    """The feature of every image for each of its classes, as ``Memory.update`` takes it.

    An object's feature is the pyramid level of its size, averaged over its box and L2-normalised; an image's feature
    for a class is the normalised mean over its objects of that class.

    Args:
        model: Knows all of ``names``; its mode is kept.
        records: The candidates.
        names: The classes of interest.
        batch_size: Images per forward.

    Returns:
        Class name -> position in ``records`` -> (C,) float32 of length 1.
    """
    training = model.training
    model.eval()
    dataset = DetectionDataset([record.restrict(names, record.coverage) for record in records], model.vocab)
    found: dict[str, dict[int, NDArray[np.float32]]] = {name: {} for name in names}
    for start in range(0, len(records), batch_size):
        places = range(start, min(start + batch_size, len(records)))
        prepared = model.prepare(*collate([dataset[(0, place)] for place in places]))
        pooled = _pool(model.dense(prepared), prepared, model.architecture.anchor_sizes)
        for place, target, features in zip(places, prepared.targets or [], pooled, strict=True):
            for name in names:
                mine = (target["labels"] == model.vocab.column(name)) & ~target["ignore"]
                if mine.any():
                    found[name][place] = F.normalize(features[mine].mean(0), dim=0).float().cpu().numpy()
    model.train(training)
    return found


def _pool(dense: HeadOutputs, prepared: ImageBatch, anchor_sizes: Sequence[Sequence[float]]) -> list[Tensor]:
    """(M, C) L2-normalised features of the boxes of every image."""
    width = prepared.images.shape[-1]
    sizes = torch.tensor([sum(level) / len(level) for level in anchor_sizes], device=prepared.images.device)
    pooled = []
    for number, target in enumerate(prepared.targets or []):
        boxes = target["boxes"]
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1).sqrt()
        level = (side[:, None].log() - sizes.log()).abs().argmin(1)
        features = boxes.new_zeros(len(boxes), dense.features[0].shape[1])
        for index, feature in enumerate(dense.features):
            mine = level == index
            if mine.any():
                scale = feature.shape[-1] / width
                one = feature[number : number + 1].float()
                features[mine] = roi_align(one, [boxes[mine]], 3, scale, aligned=True).mean(dim=(2, 3))
        pooled.append(F.normalize(features, dim=1))
    return pooled

"""A second class for a RetinaNet that knows one, in the manner of DeepForest's tree crowns, and back to torchvision.

DeepForest's detector is torchvision's RetinaNet with one column, its annotations are CSV files. Its weights come out as

    torch.save(deepforest.main.deepforest().model.state_dict(), "tree.pth")

and then

    python docs/examples/one_class.py tree.pth --known Tree --data birds.csv --images birds --output runs/birds

teaches it the classes of ``birds.csv`` and writes ``runs/birds/torchvision.pth``, which a RetinaNet of torchvision or
of DeepForest with that many columns loads as it is. Words of the form key=value are settings (``incdet keys``).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import incdet


def main() -> int:
    """Loads, extends, and writes a plain state dict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, metavar="STATE", help="state dict of a RetinaNet")
    parser.add_argument("--arch", default="retinanet_resnet50_fpn", metavar="NAME", help="its network")
    parser.add_argument("--known", nargs="+", required=True, metavar="NAME", help="the name of each of its columns")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="annotations, such as a CSV file")
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the photographs, if they lie apart")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="run folder")
    arguments, settings = parser.parse_known_args()

    known = incdet.load(arguments.weights, arch=arguments.arch, known_classes=arguments.known)
    extended = incdet.extend(
        known, data=arguments.data, images=arguments.images, output=arguments.output, overrides=settings
    )
    print(f"{', '.join(known.names)} -> {', '.join(extended.names)}")

    plain = incdet.to_torchvision(extended.model)  # needs incdet no more: one column a class, no background column
    target = arguments.output / "torchvision.pth"
    torch.save(plain.state_dict(), target)
    print(f"written: {target}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Installation of incdet; every bound has its reason beside it."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
SOURCE = (HERE / "incdet" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', SOURCE, re.MULTILINE)
assert VERSION is not None, "incdet/__init__.py states the version"

setup(
    name="incdet",
    version=VERSION.group(1),
    description="Incremental object detection: teach a torchvision RetinaNet new classes, keep the old ones",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",  # torch 2.9 and up need it
    packages=find_packages(include=["incdet", "incdet.*"]),
    package_data={"incdet": ["py.typed"]},
    install_requires=[
        "torch>=2.9",  # oldest release the identities were measured on; no upper bound, a new GPU needs a new torch
        "torchvision>=0.24",  # the partner of torch 2.9; its RetinaNet is the network
        "accelerate",  # devices, mixed precision, several processes
        "safetensors",  # checkpoints that run no code when they are read
        "numpy",
        "pillow",  # reads picture headers, draws labels; torchvision needs it anyway
        "pycocotools",  # the reference for COCO AP
        "albumentations==2.0.8",  # last release under MIT
        "albucore==0.0.24",  # the one that albumentations 2.0.8 was built on; later ones break it
        "pydantic>=2.9",  # reads descriptions from attribute docstrings
        "typing-extensions",  # `Self` on Python 3.10; pydantic needs it anyway
        "pyyaml",
        "rich",  # progress bar and tables
        "psutil",  # how much memory is free, for the batch size; accelerate needs it anyway
        "opencv-python-headless",  # decodes and resizes pictures; never install another OpenCV beside it
    ],
    extras_require={
        "test": [
            "pytest",
            "hypothesis",
            "ruff",
            "mypy",
            "types-PyYAML",
            "hotcoco",  # fast COCO evaluation, tested equal to pycocotools to the last bit
        ],
        "tensorboard": ["tensorboard"],  # engine.tensorboard
    },
    entry_points={"console_scripts": ["incdet=incdet.app.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)

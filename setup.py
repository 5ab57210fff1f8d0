"""Installation of incdet; every bound has its reason beside it."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
SOURCE = (HERE / "incdet" / "__init__.py").read_text(encoding="utf-8")
CITATION = (HERE / "CITATION.cff").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', SOURCE, re.MULTILINE)
assert VERSION is not None, "incdet/__init__.py states the version"
# An address is stated once, where people cite it; until there is one, none is made up.
ADDRESS = re.search(r'^(?:repository-code|url): "?(https?://[^"\s]+)', CITATION, re.MULTILINE)

setup(
    name="incdet",
    version=VERSION.group(1),
    description="Incremental object detection: teach a torchvision RetinaNet new classes, keep the old ones",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={} if ADDRESS is None else {"Source": ADDRESS[1], "Documentation": f"{ADDRESS[1]}/tree/main/docs"},
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
        "tensorboard": ["tensorboard"],  # engine.trackers
        "onnx": [  # incdet export --as onnx
            "onnx",
            "onnxruntime",  # verifies what was written
            "onnxscript",  # for PyTorch's newer exporter
        ],
        "supervision": ["supervision>=0.31"],  # Prediction.to_supervision; earlier ones bring a second OpenCV
        "hub": ["huggingface_hub"],  # incdet push and pull, and detectors called hub:OWNER/NAME
        "docs": [
            "mkdocs<2",  # what the theme is made for
            "mkdocs-material",
            "mkdocstrings[python]",  # API pages from docstrings
            "ruff",  # breaks long signatures in them
        ],
    },
    entry_points={"console_scripts": ["incdet=incdet.app.cli:main"]},
    keywords=[
        "object detection",
        "incremental learning",
        "continual learning",
        "knowledge distillation",
        "torchvision",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
)

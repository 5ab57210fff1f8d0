"""Check that a downloaded VOC or COCO folder has the layout, the files and the classes that incdet expects.

    python datasets/check_download.py voc  --root DIR [--splits 2007_trainval 2007_test]
    python datasets/check_download.py coco --root DIR [--splits train val]

Exit code 0: everything is there. 2: something is missing or damaged; every finding names the file and the fix.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from incdet.data.formats import read_voc
from incdet.data.formats.coco_checks import check_coco
from incdet.data.formats.jsonfile import load_json
from incdet.errors import Finding, InputError

HERE = Path(__file__).resolve().parent
VOC_DEFAULT = ("2007_trainval", "2007_test")
COCO_DEFAULT = ("train", "val")


def check_voc(root: Path, splits: list[str], layout: dict[str, Any]) -> list[Finding]:
    """Findings about the named ``<year>_<split>`` parts of a devkit."""
    findings = []
    for entry in splits:
        year, _, split = entry.partition("_")
        expected = layout.get(year, {}).get("splits", {}).get(split)
        if expected is None:
            known = [f"{y}_{s}" for y, part in layout.items() for s in part["splits"]]
            findings.append(Finding("--splits", entry, "is not a split of VOC", f"known: {', '.join(known)}"))
            continue
        folder = root / layout[year]["folder"]
        if not folder.is_dir():
            findings.append(Finding(str(folder), "folder", "does not exist", f"unpack VOC {year} into {root}"))
            continue
        try:
            data = read_voc(root, year, split, classes=_lines(HERE / "voc" / "classes.txt"))
        except InputError as error:
            findings += error.findings
            continue
        listed = folder / "ImageSets" / "Main" / f"{split}.txt"
        findings += [*data.warnings, *_count(listed, "images", len(data), expected)]
    return findings


def check_coco_folder(root: Path, splits: list[str], layout: dict[str, Any]) -> list[Finding]:
    """Findings about the named splits of COCO 2017."""
    findings = []
    ids = yaml.safe_load((HERE / "coco" / "ids.yaml").read_text(encoding="utf-8"))
    for split in splits:
        if split not in layout:
            findings.append(Finding("--splits", split, "is not a split of COCO", f"known: {', '.join(layout)}"))
            continue
        path = root / layout[split]["annotations"]
        try:
            content = load_json(path)
        except InputError as error:
            findings += error.findings
            continue
        faults = check_coco(path, root / layout[split]["images"], content)
        findings += faults
        if any(finding.severity == "error" for finding in faults):
            continue
        if {entry["name"]: entry["id"] for entry in content["categories"]} != ids:
            findings.append(Finding(str(path), "categories", "are not the 80 of COCO 2017", "download the file again"))
        for key, expected in layout[split]["counts"].items():
            findings += _count(path, key, len(content[key]), expected)
    return findings


def _count(path: Path, what: str, found: int, expected: int) -> list[Finding]:
    if found == expected:
        return []
    return [Finding(str(path), what, f"there are {found}, the release has {expected}", "download and unpack it again")]


def _lines(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, print; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("dataset", choices=("voc", "coco"))
    parser.add_argument("--root", type=Path, required=True, help="the folder that datasets/README.md draws")
    parser.add_argument("--splits", nargs="+", help="default: VOC 2007 trainval and test; COCO train and val")
    options = parser.parse_args(arguments)
    layout = yaml.safe_load((HERE / options.dataset / "layout.yaml").read_text(encoding="utf-8"))
    check, default = (check_voc, VOC_DEFAULT) if options.dataset == "voc" else (check_coco_folder, COCO_DEFAULT)
    findings = check(options.root, list(options.splits or default), layout)
    for finding in findings:
        print(f"{finding.severity}: {finding}")
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{options.root}: {errors} error(s), {len(findings) - errors} warning(s)")
    return 2 if errors else 0


if __name__ == "__main__":
    sys.exit(main())

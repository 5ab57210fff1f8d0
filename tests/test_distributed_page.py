"""The page on several machines shows what its model computes, and its job script is one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_table_is_that_of_the_model(repository: Path) -> None:
    model = repository / "docs" / "examples" / "scaling_model.py"
    rows = subprocess.run([sys.executable, str(model)], capture_output=True, text=True, check=True).stdout
    assert rows.count("\n") == 4 and rows in (repository / "docs" / "distributed.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(("stored", "code"), [(False, 0), (True, 7)])
def test_the_job_script_starts_one_launcher_a_machine(
    repository: Path, tmp_path: Path, stored: bool, code: int
) -> None:
    """With programs in the place of SLURM's that say how they were called."""
    for name, text in {
        "scontrol": "echo node-1; echo node-2",
        "srun": f'echo "srun $*"; exit {code}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    if stored:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").touch()
    words = ["bash", str(repository / "docs/examples/slurm.sbatch"), "c.yaml", str(tmp_path / "run"), "seed=1"]
    job = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "x", "SLURM_NNODES": "2", "SLURM_JOB_ID": "5"}
    done = subprocess.run(words, env=job, capture_output=True, text=True, timeout=60)
    assert done.returncode == code and not done.stderr
    resume = "--resume " if stored else ""
    assert done.stdout.strip() == (
        "srun torchrun --nnodes 2 --nproc-per-node 8 --rdzv-id 5 --rdzv-backend c10d --rdzv-endpoint node-1:29500 "
        f"tools/train_incremental.py --config c.yaml {resume}output={tmp_path / 'run'} engine.workers=7 seed=1"
    )

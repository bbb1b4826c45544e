"""Jobs of Slurm, by submitit's own executor for one machine."""

import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rales import slurm
from rales.errors import UsageError
from rales.jobs import batch_predict, sweep
from tests.slurm_tasks import act

pytest.importorskip("submitit", reason='submitit is not here: pip install "rales[slurm]"')


def test_jobs_answer_raise_and_are_tried_again_when_they_die(tmp_path: Path) -> None:
    options: dict[str, Any] = {"folder": tmp_path / "jobs", "cluster": "local", "wait": lambda _: time.sleep(0.1)}
    found = dict(slurm.run_on_slurm(act, ["fail", "die"], (str(tmp_path / "mark"),), retries=1, **options))
    assert found["die"] == "alive"
    assert (type(found["fail"]), str(found["fail"])) == (ValueError, "fail is no number")

    job = SimpleNamespace(job_id="12", state="TIMEOUT", paths=SimpleNamespace(stderr="out/12_log.err"))
    said = str(slurm.describe_death(job))
    assert said == "its job 12 ended as TIMEOUT without an answer; its log is out/12_log.err"


def test_without_slurm_a_sentence_says_so(tmp_path: Path) -> None:
    if shutil.which("sbatch"):
        pytest.skip("this machine has Slurm")
    with pytest.raises(UsageError, match="no sbatch on this machine; start this on a login node"):
        next(slurm.run_on_slurm(act, [1], (), folder=tmp_path))


def test_what_sbatch_refuses_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in the place of sbatch, with the answer that Slurm gives to a partition that is not there."""
    for name in ("sbatch", "srun"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpux' >&2\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(UsageError, match=r"^slurm: sbatch refused a job, .*invalid partition specified: gpux$"):
        next(slurm.run_on_slurm(act, [1], (), folder=tmp_path / "jobs", options=["partition=gpux"]))


def test_options_are_those_of_sbatch() -> None:
    words = ["partition=gpu", "--gpus-per-node=1", "gres=gpu:a100:1"]
    assert slurm.parse_options(words) == {"partition": "gpu", "gpus_per_node": 1, "gres": "gpu:a100:1"}
    with pytest.raises(UsageError, match="--sbatch gpu: expected name=value"):
        slurm.parse_options(["gpu"])
    with pytest.raises(UsageError, match="--sbatch: is of --engine slurm"):
        next(sweep.on_this_machine([], (), 1, None, ["partition=gpu"]))
    with pytest.raises(UsageError, match="--sbatch: is of --cluster slurm"):
        batch_predict.predict_manifest(Path("m.csv"), Path("out"), sbatch=["partition=gpu"])

"""The loss of three steps of all systems, and a fingerprint of what each predicts, as recorded.

Float32, one thread, 20 train cycles of a second in one batch an epoch, so that an epoch is a step. On the processor and
the torch that made the record every number is equal to the last bit; elsewhere sums are ordered otherwise, and the
losses are equal to three digits (2e-4 was seen between two vendors). `python -m tests.test_three_steps` writes the
record again: a change of it is a change of somebody's system, so it says so in the commit.
"""

import hashlib
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from rales.cli import main
from tests import tiny

RECORD = Path(__file__).parent / "three_steps.json"
SETTINGS = {
    "train.epochs": 3,
    "train.batch_size": 64,
    "train.micro_batch": 0,
    "train.drop_last": "false",
    "train.evaluate_every": 3,
    "train.device": "cpu",
    "train.precision": "float32",
    "audio.duration_s": 0.8,
}
OWN_LENGTH = ("lungrn_nl", "lungattn")  # the picture of a whole cycle, whatever its length


def machine() -> str:
    """-> what decides in which order sums are taken: one library of products goes by the processor's vendor, too."""
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    vendor = next((line.split(":")[1].strip() for line in facts.splitlines() if line.startswith("vendor_id")), "")
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {vendor or platform.machine()}"


def trained(name: str, data: Path, out: Path) -> dict[str, Any]:
    """System -> {stage: losses of its steps as hexadecimal floats}, and the SHA-256 of its table of predictions."""
    chosen = {
        field: value for field, value in SETTINGS.items() if not (field.startswith("audio.") and name in OWN_LENGTH)
    }
    settings = [part for field, value in chosen.items() for part in ("--set", f"{field}={value}")]
    command = ["train", name, "--data", str(data), "--out", str(out), "--size", "tiny", "--seed", "7", *settings]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert not ended.value.code
    losses = {}
    for file in sorted(out.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        stage = file.parent.relative_to(out).as_posix()
        losses[stage] = [float(line["loss"]).hex() for line in lines if line["split"] == "train"]
    return {"losses": losses, "predictions": hashlib.sha256((out / "predictions.csv").read_bytes()).hexdigest()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("three_steps") / "data")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    known: dict[str, Any] = json.loads(RECORD.read_text())
    assert list(known["systems"]) == list(tiny.SYSTEMS)
    return known


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_three_steps_are_those_of_the_record(
    name: str, record: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RALES_CACHE", str(data.parent / "cache"))
    now, known = trained(name, data, tmp_path / "run"), record["systems"][name]
    if record["machine"] == machine():
        assert now == known
    assert now["losses"].keys() == known["losses"].keys()
    for stage, losses in known["losses"].items():
        expected = [float.fromhex(loss) for loss in losses]
        assert [float.fromhex(loss) for loss in now["losses"][stage]] == pytest.approx(expected, rel=1e-3)


def write_record() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = tiny.write_folder(Path(folder) / "data")
        systems = {name: trained(name, data, Path(folder) / name) for name in tiny.SYSTEMS}
    RECORD.write_text(json.dumps({"machine": machine(), "systems": systems}, indent=2) + "\n")


if __name__ == "__main__":
    write_record()

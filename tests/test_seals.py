"""The SHA-256 that a file keeps of itself: right after sealing, wrong after anything else."""

import hashlib
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from rales.files import seals
from rales.models import load_m2d
from rales.models.m2d_checkpoints import read_tensors, write_reference_file
from rales.training import run_folder
from tests import tiny


@settings(deadline=None)
@given(st.binary(), st.binary(), st.data())
def test_any_other_byte_anywhere_is_found(before: bytes, after: bytes, data: st.DataObject) -> None:
    content = before + seals.UNSEALED.encode() + after
    place = data.draw(st.integers(0, len(content) - 1))
    with TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"file: a file that was damaged or changed after it was written"):
            seals.check_seal(path, "a file")
        seals.seal_file(path)
        assert len(seals.check_seal(path, "a file")) == 64
        sealed = path.read_bytes()
        assert (len(sealed), sealed[: len(before)]) == (len(content), before)
        seals.seal_file(path)  # again: nothing else
        assert path.read_bytes() == sealed
        damaged = bytearray(sealed)
        damaged[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != sealed[place]))
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"file: (not )?a file"):
            seals.check_seal(path, "a file")
        for other in (sealed[:-1], sealed + b" ", b"x" + sealed):
            path.write_bytes(other)
            with pytest.raises(ValueError, match=r"file: (not )?a file"):
                seals.check_seal(path, "a file")


def test_the_digits_are_those_of_the_file_with_zeros_in_their_place(tmp_path: Path) -> None:
    """Also of a file longer than what is hashed at once, by the words of the module alone."""
    path = tmp_path / "long"
    content = np.random.default_rng(0).bytes(3 * 2**20 + 5)
    content = content[: 2**20 - 7] + seals.UNSEALED.encode() + content[2**20 - 7 :]
    path.write_bytes(content)
    seals.seal_file(path)
    assert seals.check_seal(path, "a file") == hashlib.sha256(content).hexdigest()


def test_files_without_a_seal(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"something", seals.UNSEALED[:-1].encode()):
        path.write_bytes(content)
        assert seals.check_seal(path, "a file", needed=False) == ""
        with pytest.raises(ValueError, match=r"x: not a file, or cut or damaged, since it holds no SHA-256 of itself"):
            seals.check_seal(path, "a file")
        with pytest.raises(ValueError, match=r"x: no place for a seal"):
            seals.seal_file(path)


def test_a_checkpoint_with_a_record_needs_a_seal_and_a_strangers_does_not(tmp_path: Path) -> None:
    path, tensors = tmp_path / "x.safetensors", {"w": torch.ones(2)}
    save_file(tensors, path, metadata={"rales": "{}"})
    for read in (run_folder.read_checkpoint, read_tensors):
        with pytest.raises(ValueError, match=r"x.safetensors: not a checkpoint of Rales, or cut or damaged"):
            read(path)
    save_file(tensors, path, metadata={"sha256": "0" * 64})
    assert torch.equal(read_tensors(path)[0]["w"], tensors["w"])


def test_the_same_run_leaves_the_same_bytes(tmp_path: Path) -> None:
    """safetensors writes several metadata in random order."""
    more = {"heads": "2", "unit_frames": "96", "decoder_heads": "4", "of": "Zoë"}
    for number in range(12):
        run_folder.save_tensors(
            tmp_path / f"{number}", {"w": torch.ones(2), "v": torch.ones(3)}, {"epoch": 1, "b": [2]}, more
        )
    with safe_open(tmp_path / "0", "pt") as file:
        assert {name: file.metadata()[name] for name in more} == more
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert run_folder.read_checkpoint(tmp_path / "0")[1] == {"epoch": 1, "b": [2]}


def test_a_record_that_is_written_again_gets_a_seal_of_its_own(tmp_path: Path) -> None:
    run_folder.save_tensors(tmp_path / "a", {"w": torch.ones(2)}, {"seal": f"rales-sha256:{'a' * 64}", "epoch": 1})
    assert run_folder.read_checkpoint(tmp_path / "a")[1] == {"epoch": 1}
    shutil.copy(tmp_path / "a", tmp_path / "b")  # a copy is as whole
    assert run_folder.read_checkpoint(tmp_path / "b")[1] == {"epoch": 1}


def test_the_file_for_the_reference_code_is_read_as_any_other(tmp_path: Path) -> None:
    encoder = tiny.model().network.get_submodule("encoder")
    path = write_reference_file(tmp_path, encoder.state_dict(), 1, unit=(80, 608), patch=(16, 16))
    assert len(seals.check_seal(path, "a file")) == 64
    found = torch.load(path, weights_only=False)  # as the reference code does
    assert set(found) == {"model", "epoch", "args"}
    assert all(torch.equal(found["model"][name], value) for name, value in encoder.state_dict().items())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint-1.pth: a checkpoint of Rales that was damaged or changed"):
        load_m2d(path)


def test_a_run_does_not_go_on_from_a_damaged_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One bit, the number still finite: the epoch before is whole, so the run goes on from that."""
    for epoch in (1, 2):
        run_folder.save_resume(tmp_path, {"w": torch.ones(500)}, {"state": {"epoch": epoch}})
    path = tmp_path / run_folder.RESUME
    content = bytearray(path.read_bytes())
    content[-1] ^= 1 << 6  # of an exponent: 1 becomes tiny
    path.write_bytes(content)
    assert run_folder.read_resume(tmp_path, lambda tensors, record, path: None) == {"epoch": 1}
    assert "resume.safetensors: a checkpoint of Rales that was damaged or changed" in caplog.text

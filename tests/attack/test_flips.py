"""Single bits turned over in every kind of file that Rales writes and reads again: each is noticed.

`pytest -m slow tests/attack/test_flips.py -s` prints the figures.
"""

import importlib.util
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import rales
from rales.data import read_cycles
from rales.data.dataset import load_dataset
from rales.export.build import export_model
from rales.inference import similarity_search
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.jobs import layer_search
from rales.models import M2D, hub, load_m2d
from rales.models.m2d_checkpoints import read_tensors, write_reference_file
from rales.recipes.registry import make_recipe
from rales.training import epoch_logits, finetune, run_folder
from tests import tiny
from tests.attack.flips import Case, anywhere, in_the_seal, trials

EXPORTS = ("onnx", "onnxruntime", "onnxscript", "openvino")


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


@pytest.fixture(scope="module")
def place(model: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind of file but artefacts."""
    folder = tmp_path_factory.mktemp("flips")
    tiny.write_folder(folder / "data")
    tiny.save(model, folder / "model.safetensors")
    state = {"epoch": 1, "best_score": None, "best_epoch": None}
    tensors = finetune.tensors_of(model.network, model.torch_engine.frontend)
    run_folder.save_tensors(folder / "resume.safetensors", tensors, {**model.record, "state": state})
    epoch_logits.append_epoch(folder, 1, {"test": torch.randn(40, 4).half(), "layers": torch.tensor([1, 2])})
    layer_search.keep(folder / "features.safetensors", {"mean": np.ones((40, 2, 24), np.float32)}, {"a": 1})
    pretrained = M2D(model.network.get_submodule("encoder"), decoder_dim=16, decoder_depth=1, decoder_heads=2)  # type: ignore[arg-type]
    run_folder.save_tensors(
        folder / "encoder.safetensors", pretrained.state_dict(), {"recipe": "pretrain"}, pretrained.metadata()
    )
    for suffix in (".npz", ".parquet"):
        similarity_search.write_vectors(
            model.embed_table(folder / "data"), folder / f"v{suffix}", {"model": model.digest}
        )
    return folder


def checkpoints(place: Path, model: Predictor) -> list[Case]:
    """The safetensors files of `place` with what reads each."""
    model_file, resume, features, encoder = (
        place / f"{name}.safetensors" for name in ("model", "resume", "features", "encoder")
    )
    return [
        Case("checkpoint, as a model", model_file, partial(load_model, model_file)),
        Case("checkpoint, as --weights", model_file, partial(make_recipe, "m2d_fusion", weights=str(model_file))),
        Case(
            "resume",
            resume,
            partial(finetune.resume_training, place, model.network, model.torch_engine.frontend, {}, model.record),
        ),
        Case("epochs", place / epoch_logits.FILE, partial(epoch_logits.read_epochs, place)),
        Case("layer search", features, partial(layer_search.kept, features, {"a": 1}, {"mean": (40, 2, 24)})),
        Case("pre-trained encoder", encoder, partial(M2D.from_checkpoint, encoder)),
    ]


def embeddings(place: Path) -> list[Case]:
    def nearest(file: Path) -> list[list[object]]:
        found = similarity_search.find_nearest(file, "101_1b1_Tc_sc_Litt3200#1", 5)
        assert found is not None
        return found.drop(columns="similarity").to_numpy().tolist()

    npz, parquet = place / "v.npz", place / "v.parquet"
    nearest(npz)  # makes the index
    return [
        Case("embeddings, npz", npz, lambda: nearest(npz)),
        Case("embeddings, parquet", parquet, lambda: nearest(parquet)),
        Case("search index", place / "v.npz.usearch", lambda: nearest(npz), made_again=True),
    ]


def waves(place: Path, model: Predictor) -> Case:
    cycles = read_cycles(place / "data")

    def prepared() -> bytes:
        return load_dataset(cycles, model.recipe, folder=place / "cache").inputs.tobytes()

    prepared()
    (file,) = (place / "cache").glob("*/waves.npy")
    return Case("cache", file, prepared, made_again=True)


def test_some_bits_of_every_kind_and_all_of_a_seal(place: Path, model: Predictor) -> None:
    """The few-second form of the test below: artefacts are in tests/test_export.py."""
    cases = [*checkpoints(place, model), *embeddings(place), waves(place, model)]
    for case in cases:
        assert trials(case, anywhere(case, 3, seed=1)) == []
    for case in (cases[0], *embeddings(place)):
        assert trials(case, in_the_seal(case)) == []


def test_every_bit_of_a_small_checkpoint(tmp_path: Path) -> None:
    """Length, names, padding of the header, seal, numbers: all of it, both ways to read it."""
    path = tmp_path / "small.safetensors"
    run_folder.save_tensors(path, {"w": torch.tensor([1.0, 2.0])}, {})
    header = path.read_bytes()[8:-8]
    assert header.endswith(b" ")  # padded
    places = [(byte, bit) for byte in range(path.stat().st_size) for bit in range(8)]
    assert trials(Case("small", path, lambda: read_tensors(path)), places) == []
    assert trials(Case("small", path, lambda: run_folder.read_checkpoint(path)), places[::7]) == []


@pytest.mark.slow
@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in EXPORTS), reason="needs the extra export")
def test_five_hundred_bits(
    place: Path, model: Predictor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export_model(place / "model.safetensors", place / "m.onnx")
    export_model(place / "model.safetensors", place / "m.xml", "openvino")
    artefact = {
        name: Case(name, place / name, partial(rales.load, place / file))
        for name, file in (("m.onnx", "m.onnx"), ("m.xml", "m.xml"), ("m.bin", "m.xml"))
    }
    npz, parquet, index = embeddings(place)
    plan = [
        *((case, 50) for case in checkpoints(place, model)),
        (artefact["m.onnx"], 50),
        (artefact["m.xml"], 25),
        (artefact["m.bin"], 25),
        (waves(place, model), 50),
        (npz, 15),
        (parquet, 15),
        (index, 20),
        (fetched(place, monkeypatch), 50),
    ]
    lines, all_unnoticed = [], 0
    for case, count in plan:
        unnoticed = trials(case, anywhere(case, count, seed=2))
        all_unnoticed += len(unnoticed)
        lines.append(f"{case.kind}: {count} single bits, {count - len(unnoticed)} noticed {unnoticed or ''}")
    with capsys.disabled():
        print("", *lines, f"in all: {sum(n for _, n in plan)}, not noticed: {all_unnoticed}", sep="\n")
    assert all_unnoticed == 0


def fetched(place: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A public checkpoint with the record of its first download."""
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    name = hub.ALIASES["mr7"]
    file = hub.checkpoint_folder() / name / "checkpoint-300.pth"
    file.parent.mkdir(parents=True)
    torch.save({"w": torch.randn(1000)}, file)
    record = {"files": {file.name: hub.sha256_of(file)}}
    (hub.checkpoint_folder() / f"{name}.json").write_text(json.dumps(record))

    def found() -> None:
        hub._sha256_of.cache_clear()  # as in another process
        hub.find_checkpoint("mr7")

    return Case("fetched weights", file, found)


@pytest.mark.slow
def test_a_file_for_the_reference_code_is_whole_or_refused(place: Path, model: Predictor) -> None:
    """It has to be a pickle in a zip, of which a stranger's has no seal, so damage to the seal's name goes unnoticed;
    then nothing else is damaged."""
    encoder = model.network.get_submodule("encoder")
    path = write_reference_file(place, encoder.state_dict(), 1, unit=(80, 608), patch=(16, 16))
    expected = load_m2d(path).state_dict()

    def unequal() -> None:
        found = load_m2d(path).state_dict()
        if all(torch.equal(found[name], value) for name, value in expected.items()):
            raise ValueError(f"{path} is read as it was")

    whole = path.read_bytes()
    unnoticed = []
    case = Case("reference", path, unequal)
    for byte, bit in [*anywhere(case, 100, seed=3), *in_the_seal(case)]:
        damaged = bytearray(whole)
        damaged[byte] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            unequal()
            unnoticed.append((byte, bit))
        except ValueError:
            pass
    assert unnoticed == []

"""Every earlier system on the harness: it trains on a tiny folder, answers from its checkpoint alone, and goes on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import rales
from rales.audio.spectrogram_images import RespireNetImage
from rales.data import read_cycles, splits
from rales.data.dataset import Batch, expand_rows, load_dataset, make_preparation, prepare_dataset
from rales.data.icbhi import DEVICES, sex_and_age
from rales.errors import UsageError
from rales.evaluation import predictions
from rales.export.load import load_with_engine
from rales.inference import attribution
from rales.inference.evaluate import evaluate_run
from rales.jobs import reproduce, sweep
from rales.labels import CLASSES
from rales.models.ast import AST
from rales.models.cnn import Cnn
from rales.models.resnest import ResNeSt
from rales.models.resnet import ResNet
from rales.recipes import lungattn
from rales.recipes.registry import find_settings, make_recipe, rebuild_recipe
from rales.report import write_report
from rales.report.load_runs import read_runs
from rales.settings import list_fields
from rales.training import finetune, run_folder
from rales.training.distributed import DistributedContext
from rales.training.recipe import LossContext, Recipe
from tests import tiny
from tests.run_folders import furthest

SYSTEMS = reproduce.EARLIER
WORDS = ("audio.duration_s=0.8", "train.epochs=2", "train.device=cpu", "train.precision=float32", "train.batch_size=8")
FILES = {"config.json", "metrics.jsonl", "predictions.csv", "last.safetensors", "best.safetensors", "done"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, and `cache`."""
    folder = tmp_path_factory.mktemp("systems")
    tiny.write_folder(folder / "data")
    return folder


@pytest.fixture(scope="module")
def cycles(place: Path) -> pd.DataFrame:
    return read_cycles(place / "data")


def made(name: str, *words: str) -> Recipe:
    return make_recipe(name, [*words_for(name), *words], size="tiny")


def words_for(name: str) -> list[str]:
    """System -> those of WORDS that it reads."""
    known = list_fields(find_settings(name))
    return [word for word in WORDS if word.partition("=")[0] in known]


def train(recipe: Recipe, cycles: pd.DataFrame, place: Path, out: Path) -> dict[str, Any]:
    figures: dict[str, Any] = recipe.run(recipe, cycles, out, cache_folder=place / "cache")
    return figures


@pytest.fixture(scope="module")
def trained(place: Path, cycles: pd.DataFrame) -> Any:
    """Name -> the run folder of its plain settings, trained once."""

    def trained(name: str) -> Path:
        if not (place / name / "done").exists():
            train(made(name), cycles, place, place / name)
        return place / name

    return trained


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_is_scored_again_from_its_checkpoint(
    name: str, trained: Any, cycles: pd.DataFrame, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(name)
    assert {path.name for path in run.iterdir()} >= FILES
    assert run_folder.read_json(run / "config.json")["provenance"] == made(name).provenance != "ours"
    table = pd.read_csv(run / "predictions.csv")
    test = cycles[cycles["split"] == "test"]
    assert table[["recording", "cycle"]].to_numpy().tolist() == test[["recording", "cycle"]].to_numpy().tolist()
    columns = [f"p_{word}" for word in CLASSES]
    model = rales.load(run, device="cpu")
    again = model.predict(sorted(set(test["path"])))
    assert np.abs(again[columns].to_numpy() - table[columns].to_numpy()).max() < 1e-5
    one = test[test["path"] == test["path"].iloc[0]]
    spans = list(zip(one["start_s"], one["end_s"], strict=True))
    scored = model.score_spans(Path(one["path"].iloc[0]), spans)
    assert np.abs(scored - table[table["recording"] == one["recording"].iloc[0]][columns].to_numpy()).max() < 1e-5
    figures = run_folder.read_json(run / "evaluation.json")
    monkeypatch.setenv("RALES_CACHE", str(place / "cache"))
    evaluated = evaluate_run(run, cycles, device="cpu")
    assert evaluated["confusion"] == figures["confusion"]
    assert evaluated["protocol"]["provenance"] == made(name).provenance
    vectors = model.embed(test["path"].iloc[0])
    assert vectors.shape[0] == 4
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in ("wang_splice", "arscnet")])
def test_fidelity_changes_the_system_or_is_refused(name: str) -> None:
    plain, original = made(name), made(name, "fidelity=original")
    assert original.settings.fidelity == "original"
    assert plain.settings.fidelity == "corrected"
    with pytest.raises(UsageError, match="--set fidelity=exact: expected one of corrected, original"):
        made(name, "fidelity=exact")


def stopped_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Ctrl-C after so many epochs in all, whatever the stage."""
    keep, count = finetune.save_epoch, 0

    def stopping(*arguments: Any) -> None:
        nonlocal count
        keep(*arguments)
        count += 1
        if count == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(finetune, "save_epoch", stopping)


INTERRUPTED = [
    *(("moummad_scl", 1), ("moummad_scl", 2), ("moummad_scl", 3)),  # inside, between and inside the second stage
    *(("respirenet", 1), ("respirenet", 3)),  # in stage 1, after the first device
    *((name, 1) for name in ("lungrn_nl", "lungattn", "nguyen_cotuning", "nguyen_stochnorm", "ast_patchmix_cl")),
]


@pytest.mark.parametrize(("name", "epochs"), INTERRUPTED)
def test_a_stopped_run_ends_as_an_undisturbed_one(
    name: str,
    epochs: int,
    trained: Any,
    cycles: pd.DataFrame,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed = trained(name)
    with monkeypatch.context() as patch:
        stopped_after(patch, epochs)
        with pytest.raises(KeyboardInterrupt):
            train(made(name), cycles, place, tmp_path / "run")
    assert not (tmp_path / "run" / "done").exists()
    train(made(name), cycles, place, tmp_path / "run")
    assert furthest(tmp_path / "run", undisturbed) == 0
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == (undisturbed / "predictions.csv").read_bytes()


def test_a_damaged_resume_of_the_first_stage_is_told_and_the_one_before_is_taken(
    trained: Any,
    cycles: pd.DataFrame,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(made("moummad_scl"), cycles, place, tmp_path / "run")
    path = tmp_path / "run" / "stage1" / run_folder.RESUME
    path.write_bytes(path.read_bytes()[:-100])
    train(made("moummad_scl"), cycles, place, tmp_path / "run")
    assert f"{path}: damaged" in caplog.text
    assert furthest(tmp_path / "run", trained("moummad_scl")) == 0
    assert not list((tmp_path / "run").rglob("resume*"))


@pytest.mark.parametrize("name", ["moummad_scl", "respirenet"])
def test_stages_stay_out_of_a_folder_of_something_else(
    name: str, cycles: pd.DataFrame, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").write_text("Dear")
    with pytest.raises(ValueError, match=r"not a run folder, but it holds letter\.txt"):
        train(made(name), cycles, place, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["letter.txt"]


def test_a_run_in_its_first_stage_is_an_unfinished_one(
    trained: Any, cycles: pd.DataFrame, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(monkeypatch, 2)  # the whole first stage
    with pytest.raises(KeyboardInterrupt):
        train(made("moummad_scl"), cycles, place, tmp_path / "run")
    found, left_out = read_runs([tmp_path, trained("moummad_ce")])
    assert [run.recipe for run in found] == ["moummad_ce"]
    assert [folder.name for folder, _ in left_out] == ["run"]


def test_losses_over_whole_batches_refuse_pieces(cycles: pd.DataFrame, place: Path, tmp_path: Path) -> None:
    recipe = made("moummad_ce", "train.micro_batch=2")
    with pytest.raises(ValueError, match="moummad_ce compares the cycles of a whole batch"):
        train(recipe, cycles, place, tmp_path / "run")


def test_the_probe_trains_its_layer_alone(trained: Any) -> None:
    run = trained("moummad_scl")
    first, last = (run_folder.read_checkpoint(path / "last.safetensors")[0] for path in (run / "stage1", run))
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved == {"head.weight", "head.bias"}


# What is special to some


def number_words(words: "pd.Series[str]") -> list[int]:
    """-> the place of each word among all of them in order."""
    known = sorted(set(words))
    return [known.index(word) for word in words]


@pytest.mark.parametrize("name", tiny.SYSTEMS)
def test_inputs_hold_samples_or_a_picture_and_the_rest_has_a_name(name: str, cycles: pd.DataFrame) -> None:
    """A front-end's input is as long as the settings say; numbers about a row are columns of the table."""
    recipe = made(name)
    some = cycles[cycles["recording"].isin(cycles["recording"].unique()[::4])]
    dataset = prepare_dataset(some.assign(split="", group=7), recipe)
    shapes: dict[str, tuple[int, ...]] = {"lungrn_nl": (1, 32, 32), "lungattn": (3, 64, 64)}
    if name not in shapes:
        shapes[name] = (round(recipe.audio.rate_hz * recipe.audio.duration_s),)
    assert dataset.inputs.shape[1:] == shapes[name]
    assert np.abs(dataset.inputs).max() <= 1
    of_devices = {"device_number": [DEVICES.index(device) for device in dataset.table["device"]]}
    known = {"moummad_mscl": {"group": [7] * len(some)}, "respirenet": of_devices, "wang_splice": of_devices}
    known |= dict.fromkeys(("nguyen_cotuning", "nguyen_stochnorm"), of_devices)
    known["ast_sg_scl"] = {"device": number_words(dataset.table["device"])}
    known["beats_pafa"] = {"patient": number_words(dataset.table["patient"])}
    assert {extra: values.tolist() for extra, values in dataset.extras.items()} == known.get(name, {})


def test_a_networks_answer_follows_the_device_that_it_takes_by_name(trained: Any, cycles: pd.DataFrame) -> None:
    model = rales.load(trained("respirenet"), device="cpu")
    dataset = prepare_dataset(cycles[:4].assign(split=""), model.recipe)
    answers = [
        model.probabilities(dataset.inputs, extras={"device_number": np.full(len(dataset), number)})
        for number in (0, 1, DEVICES.index("Meditron"))
    ]
    assert np.array_equal(answers[0], answers[1])  # no network of their own
    assert np.abs(answers[0] - answers[2]).max() > 1e-4


def features(recipe: Recipe, seed: int = 0) -> torch.Tensor:
    """-> the front-end's picture of two made-up rows."""
    torch.manual_seed(seed)
    picture: torch.Tensor = recipe.build_frontend(recipe.settings)(
        0.1 * torch.randn(2, *make_preparation(recipe).shape)
    )
    return picture


@pytest.mark.parametrize("name", ["lungrn_nl", "lungattn", "moummad_ce"])
def test_original_networks_answer_otherwise(name: str) -> None:
    answers = []
    for fidelity in ("corrected", "original"):
        recipe = made(name, f"fidelity={fidelity}")
        torch.manual_seed(0)
        model = recipe.build_model(recipe.settings).eval()
        answers.append(model(features(made(name))))
    assert not torch.allclose(answers[0], answers[1], atol=1e-5)


def test_original_settings_are_the_published_ones() -> None:
    moummad = made("moummad_scl", "fidelity=original").settings
    assert (moummad.audio.std, moummad.audio.scope, moummad.augment.published_gate) == (0.0255, "batch", True)
    plain = made("moummad_scl").settings
    assert (plain.audio.std, plain.audio.scope, plain.augment.published_gate) == (0.2550, "clip", False)
    assert made("ast_ft", "fidelity=original").settings.augment.published_gate
    assert made("ast_ft").settings.train.interpolate == 0.5
    assert make_preparation(made("lungattn", "fidelity=original")).settings["rate_hz"] == 0
    assert make_preparation(made("lungattn")).settings["rate_hz"] == 4000
    sides = [
        make_preparation(made("respirenet", f"fidelity={word}")).settings["random_side"]
        for word in ("corrected", "original")
    ]
    assert sides == [False, True]
    respirenet = made("respirenet", "fidelity=original").settings
    assert (respirenet.joined, respirenet.statistics) == (0.0, "device")
    assert made("respirenet").settings.statistics == "stage1"
    last_batches = [
        made("lungrn_nl", f"fidelity={word}").settings.train.drop_last for word in ("corrected", "original")
    ]
    assert last_batches == [False, True]
    for name in ("ast_ft", "ast_patchmix_cl"):
        assert made(name, "fidelity=original").settings.train.cosine_start_epoch == 1
        assert made(name).settings.train.cosine_start_epoch == 0
    for name in ("moummad_scl", "moummad_mscl", "moummad_hybrid"):
        assert (made(name).settings.views, made(name, "fidelity=original").settings.views) == ("together", "apart")


@pytest.mark.parametrize("name", ["moummad_scl", "moummad_mscl", "moummad_hybrid"])
@pytest.mark.parametrize("words", [("views=together",), ("views=apart",), ("fidelity=original",)])
def test_batch_norm_takes_its_statistics_over_both_views_or_over_each(name: str, words: tuple[str, ...]) -> None:
    recipe = made(name, *words)
    torch.manual_seed(0)
    model, label = recipe.build_model(recipe.settings).train(), torch.arange(8) % 4
    encoder = model.get_submodule("encoder")
    filters = encoder.get_parameter("conv_block1.conv1.weight").detach().clone()
    passes: list[torch.Tensor] = []
    encoder.register_forward_pre_hook(lambda _, given: passes.append(given[0]))

    pictures = torch.rand(8, 1, 64, 26)
    step = LossContext(
        recipe.settings, label, label, torch.ones(4), {"group": label // 2}, torch.Generator().manual_seed(0)
    )
    recipe.loss(model, pictures, step)

    apart = words != ("views=together",)
    assert [len(given) for given in passes] == ([8, 8] if apart else [16])
    assert not torch.equal(*torch.cat(passes).split(8))
    running = torch.zeros(filters.shape[0])
    for given in passes:  # a tenth of the way to the mean of each pass
        seen = given if words == ("fidelity=original",) else given.transpose(2, 3)
        mean = torch.nn.functional.conv2d(seen, filters, padding=2).mean(dim=(0, 2, 3))
        running = 0.9 * running + 0.1 * mean
    assert torch.allclose(encoder.get_buffer("conv_block1.bn1.running_mean"), running, atol=1e-6)


def test_one_digit_labels_are_of_train_cycles_only(cycles: pd.DataFrame) -> None:
    twelve = pd.DataFrame({"recording": "a", "cycle": range(1, 13), "label": ["normal"] * 10 + ["both"] * 2})
    recipe = made("lungrn_nl", "fidelity=original")
    assert expand_rows(twelve.assign(split="train"), recipe)["label"].tolist() == ["normal"] * 12
    assert expand_rows(twelve.assign(split="test"), recipe)["label"].tolist() == twelve["label"].tolist()


def test_respirenet_joins_train_cycles_and_cuts_long_ones(cycles: pd.DataFrame) -> None:
    uneven = cycles[(cycles["label"] != "both") | (cycles["patient"].astype(int) < 102)].reset_index(drop=True)
    items = expand_rows(uneven, made("respirenet"))
    train = items[items["split"] == "train"]
    first = train[train["piece"] == 0]
    assert first["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 5)
    joined = first[first["second_path"] != ""]
    assert set(joined["label"]) == {"both"}
    assert set(items.loc[items["split"] == "test", "second_path"]) == {""}
    assert (items.groupby(["recording", "cycle", "second_path", "second_start_s"]).size() >= 2).all()  # 1 s in 0.8 s
    assert len(expand_rows(uneven.assign(split=""), made("respirenet"))) == 2 * len(uneven)
    one = make_recipe("respirenet", ["audio.duration_s=1"], size="tiny")
    assert len(expand_rows(uneven.assign(split=""), one)) == len(uneven)


def test_wang_splices_two_devices(cycles: pd.DataFrame) -> None:
    items = expand_rows(cycles, made("wang_splice"))
    spliced = items[items["second_path"] != ""]
    assert len(spliced) > 10
    assert set(spliced["split"]) == {"train"}
    assert all(device not in other for device, other in zip(spliced["device"], spliced["second_path"], strict=True))
    assert spliced["ratio"].between(0.3, 0.7).all()


def test_wang_gives_cycles_the_spectrum_of_another_device(cycles: pd.DataFrame, place: Path, tmp_path: Path) -> None:
    recipe = made("wang_splice", "domain=spectral", "train.epochs=1")
    assert set(expand_rows(cycles, recipe)["second_path"]) == {""}
    train(recipe, cycles, place, tmp_path / "run")
    frontend, _ = finetune_parts(recipe, tmp_path / "run")
    gains = frontend.get_buffer("gains")
    assert [tuple(pair) for pair in gains.any(dim=2).nonzero().tolist()] == [(2, 3), (3, 2)]  # Litt3200 and Meditron
    inside = (gains[2, 3] > 0.1) & (gains[2, 3] < 10)
    assert torch.allclose(gains[2, 3][inside], 1 / gains[3, 2][inside])
    waveforms, device_number = 0.1 * torch.randn(4, 3200), torch.tensor([2, 3, 4, 2])
    assert recipe.wave_augment is not None
    batch = Batch(waveforms, device_number, np.arange(4), device_number, {"device_number": device_number})
    draws = [recipe.wave_augment(recipe.settings, batch, torch.Generator().manual_seed(seed)) for seed in range(50)]
    assert all(torch.equal(drawn.inputs, waveforms) for drawn in draws)
    assert 0.4 < float((torch.cat([drawn.extras["choice"] for drawn in draws]) < 0).float().mean()) < 0.6
    choice = torch.tensor([0.5, 0.5, 0.5, -0.5])
    apart = frontend(waveforms, device_number, choice) - frontend(waveforms, device_number)
    changed = apart.abs().amax(dim=(1, 2, 3)) > 1e-3
    assert changed.tolist() == [True, True, False, False]  # an unknown device, and one that is not to change, stay


@pytest.mark.parametrize("name", ["respirenet", "lungrn_nl"])
def test_no_graph_is_made_of_a_system_that_sees_more_than_a_waveform(
    name: str, trained: Any, cycles: pd.DataFrame
) -> None:
    model = load_with_engine(trained(name), device="cpu", recordings=1000, tell=pytest.fail)
    assert model.engine == model.torch_engine
    with pytest.raises(UsageError, match=f"--engine onnx: a model of recipe {name} sees more than a waveform"):
        load_with_engine(trained(name), "onnx", "cpu")
    with pytest.raises(ValueError, match="does not look at a log-mel picture"):
        attribution.explain_cycle(model, cycles["path"].iloc[0], 1)


def finetune_parts(recipe: Recipe, run: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """-> front-end and network of a finished run."""
    frontend, network = recipe.build_frontend(recipe.settings), recipe.build_model(recipe.settings)
    finetune.load_tensors(run_folder.read_checkpoint(run / "best.safetensors")[0], network, frontend)
    return frontend.eval(), network.eval()


def test_lungattn_filters_at_the_native_rate(tmp_path: Path) -> None:
    """A tone of 20 Hz under the sound of a 44.1 kHz recording is gone before the wave is split at 4 kHz."""
    time_s = np.arange(44100) / 44100
    sound = 0.1 * np.sin(2 * np.pi * 400 * time_s) * np.hanning(44100)
    found = []
    for hum in (0.0, 0.3):
        soundfile.write(tmp_path / "x.wav", sound + hum * np.sin(2 * np.pi * 20 * time_s), 44100)
        found.append(lungattn.wave_to_split(tmp_path / "x.wav", 0.2, 0.8, rate_hz=4000, remove_mean=True)[0])
    assert found[0].shape == (2400,)
    spectra = [np.abs(np.fft.rfft(wave - wave.mean())) for wave in found]
    bins = [round(hz * 0.6) for hz in (20, 400)]
    assert spectra[0][bins[1]] > 10 * spectra[0][bins[0]]
    assert spectra[1][bins[1]] > spectra[1][bins[0]]


def test_nguyen_fits_gains_on_train_cycles_and_keeps_the_relationship(trained: Any) -> None:
    tensors, _ = run_folder.read_checkpoint(trained("nguyen_cotuning") / "best.safetensors")
    gains = tensors["frontend.gains"]
    assert (gains[[0, 1, 4]] == 1).all()  # AKGC417L, LittC2SE, unknown: none of them trains here
    assert gains[3].std() > 0
    assert (gains[2, 129:] == 1).all()  # Litt3200 has nothing above 2 kHz
    relationship = tensors["relationship"]
    assert torch.allclose(relationship.sum(dim=1), torch.ones(4))
    assert relationship.std() > 0


def test_respirenet_has_a_network_for_each_device_with_both_parts(trained: Any) -> None:
    run = trained("respirenet")
    assert run_folder.read_json(run / "config.json")["config"]["devices"] == ["Litt3200", "Meditron"]
    tensors, _ = run_folder.read_checkpoint(run / "best.safetensors")
    first, _ = run_folder.read_checkpoint(run / "stage1" / "best.safetensors")
    assert {name.split(".")[1] for name in tensors if name.startswith("networks")} == {"all", "Litt3200", "Meditron"}
    assert all(torch.equal(tensors[name], value) for name, value in first.items())
    name = "networks.{}.head.1.weight"
    assert not torch.equal(tensors[name.format("Meditron")], tensors[name.format("all")])


def test_respirenet_measures_each_device_or_keeps_what_stage_1_measured(
    trained: Any, cycles: pd.DataFrame, place: Path, tmp_path: Path
) -> None:
    kept, _ = run_folder.read_checkpoint(trained("respirenet") / "stage2_Meditron" / "best.safetensors")
    first, _ = run_folder.read_checkpoint(trained("respirenet") / "stage1" / "best.safetensors")
    assert torch.equal(kept["frontend.mean"], first["frontend.mean"])

    recipe, run = made("respirenet", "statistics=device"), tmp_path / "run"
    train(recipe, cycles, place, run)
    dataset = load_dataset(splits.divide_cycles(cycles, recipe.settings), recipe, folder=place / "cache")
    items, waves = dataset.table, torch.from_numpy(np.array(dataset.inputs))
    colours = RespireNetImage().picture(waves).double().numpy()
    chosen = {"": items["split"] == "train"}
    for device in ("Meditron", "Litt3200"):
        own = expand_rows(splits.divide_cycles(cycles[cycles["device"] == device], recipe.settings), recipe)
        joined = own[(own["split"] == "train") & (own["second_path"] != "")]
        assert joined.empty  # a device of even classes joins no cycles, so its rows are among those of all
        chosen[f"_{device}"] = (items["split"] == "train") & (items["device"] == device) & (items["second_path"] == "")

    tensors, _ = run_folder.read_checkpoint(run / "best.safetensors")
    for suffix, rows in chosen.items():
        pictures = colours[rows.to_numpy()]
        mean, std = pictures.mean(axis=(0, 2, 3)), pictures.std(axis=(2, 3), ddof=1).mean(axis=0)
        assert tensors[f"frontend.mean{suffix}"].numpy() == pytest.approx(mean, abs=1e-5)
        assert tensors[f"frontend.std{suffix}"].numpy() == pytest.approx(std, abs=1e-5)
    assert not torch.allclose(tensors["frontend.mean_Meditron"], tensors["frontend.mean_Litt3200"], atol=1e-4)

    frontend, _ = finetune_parts(made("respirenet", "statistics=device", "devices=Litt3200,Meditron"), run)
    numbers = torch.tensor([2, 3, 0])  # Litt3200, Meditron, and a device without a network of its own
    seen = frontend(waves[:3], numbers).numpy()
    for row, suffix in enumerate(("_Litt3200", "_Meditron", "")):
        mean, std = (tensors[f"frontend.{name}{suffix}"].numpy()[:, None, None] for name in ("mean", "std"))
        assert seen[row] == pytest.approx((colours[row] - mean) / std, abs=1e-4)

    table = pd.read_csv(run / "predictions.csv")
    again = rales.load(run, device="cpu").predict(sorted(set(cycles[cycles["split"] == "test"]["path"])))
    columns = [f"p_{word}" for word in CLASSES]
    assert np.abs(again[columns].to_numpy() - table[columns].to_numpy()).max() < 1e-5


@pytest.mark.parametrize("name", ["moummad_scl", "respirenet"])
def test_a_sweep_knows_a_finished_run_of_several_stages(name: str, trained: Any, cycles: pd.DataFrame) -> None:
    trial = sweep.Trial("x", name, (*words_for(name), "size=tiny"))
    assert sweep.is_finished(trial, trained(name), cycles)
    for word in ("train.lr=0.5", "fidelity=original"):
        assert not sweep.is_finished(sweep.Trial("x", name, (*trial.words, word)), trained(name), cycles)


def test_a_sweep_tells_options_apart_that_change_no_number(trained: Any, cycles: pd.DataFrame) -> None:
    words = (*words_for("lungrn_nl"), "size=tiny")
    assert sweep.is_finished(sweep.Trial("x", "lungrn_nl", words), trained("lungrn_nl"), cycles)
    resampled = sweep.Trial("x", "lungrn_nl", (*words, "rate=4000"))
    assert not sweep.is_finished(resampled, trained("lungrn_nl"), cycles)


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_says_how_sure_each_system_is(trained: Any, tmp_path: Path) -> None:
    names = ("wang_splice", "nguyen_stochnorm", "moummad_scl")
    write_report([trained(name) for name in names], tmp_path)
    text = (tmp_path / "report.md").read_text()
    for words in (
        "wang_splice (tiny, reconstruction)",
        "nguyen_stochnorm (tiny, secondary)",
        "moummad_scl (tiny, code-v",
    ):
        assert words in text
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 3  # no stage counts as a run
    assert "“reconstruction”, rebuilt from little more than an abstract" in text


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("respirenet", lambda: ResNet(34, classes=1000)),
        ("nguyen_stochnorm", lambda: ResNet(50, classes=1000)),
        ("nguyen_cotuning", lambda: ResNet(50, classes=1000)),
        ("wang_splice", lambda: ResNeSt(50, classes=1000)),
        ("moummad_ce", lambda: Cnn("cnn6")),
        ("ast_ft", lambda: AST(64, 2, 1, frames=1024)),
    ],
)
def test_public_weights_start_the_network(name: str, build: Any, tmp_path: Path) -> None:
    with torch.device("meta"):  # a number of its own for every tensor is enough, so nothing is drawn
        named = enumerate(build().state_dict().items())
    public = {known: torch.full(value.shape, number, dtype=value.dtype) for number, (known, value) in named}
    torch.save(public, tmp_path / "public.pth")
    recipe = make_recipe(name, ["audio.duration_s=2"], weights=str(tmp_path / "public.pth"))
    model = recipe.build_model(recipe.settings).state_dict()
    key = "patch_embed.proj.weight" if name == "ast_ft" else "conv_block1.conv1.weight" if "moum" in name else None
    key = key or next(name for name in public if name.startswith("layer3."))
    (found,) = [value for known, value in model.items() if known.endswith(key)]
    assert torch.equal(found, public[key])
    again = rebuild_recipe(tiny.record_of(recipe), "run")  # the file is no longer needed
    with torch.device("meta"):
        network = again.build_model(again.settings)
    shapes = {known: value.shape for known, value in network.state_dict().items()}
    assert shapes == {known: value.shape for known, value in model.items()}


@pytest.mark.parametrize("name", ["lungrn_nl", "lungattn", "arscnet"])
def test_systems_without_weights_refuse_some(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} has no pre-trained weights"):
        make_recipe(name, weights="some.pth")


FULL_SIZE = {  # baselines of the literature: trainable parameters of the whole network
    "lungrn_nl": 707_844,
    "lungattn": 711_900,
    "respirenet": 21_367_364,
    "arscnet": 22_651_398,
    "nguyen_cotuning": 25_565_228,
    "nguyen_stochnorm": 23_516_228,
    "moummad_ce": 4_306_372,
    "moummad_scl": 4_304_320 + 328_320 + 512 * 4 + 4,
    "ast_patchmix_cl": 85_984_512 + 4_612 + 1_182_720,
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_has_the_published_number_of_parameters(name: str) -> None:
    recipe = make_recipe(name)
    with torch.device("meta"):
        model = recipe.build_model(recipe.settings)
    assert sum(p.numel() for p in model.parameters()) == FULL_SIZE[name]


def test_metadata_groups(place: Path, cycles: pd.DataFrame) -> None:
    groups = sex_and_age(cycles["path"])
    assert groups == {"101": 1, "102": 2, "103": -1, "104": 3, "105": 0, "106": 1, "107": 2}
    with pytest.raises(
        ValueError, match=r"no ICBHI_Challenge_demographic_information\.txt in it or in the folder above"
    ):
        sex_and_age(["/nowhere/at/all/101.wav"])


def test_pieces_vote_and_the_majority_has_the_largest_probability() -> None:
    rows = pd.DataFrame({"recording": list("aaabb"), "cycle": [1, 1, 1, 1, 2], "x": range(5)})
    shares = np.array([[0.9, 0.05, 0.03, 0.02], [0.4, 0.5, 0.05, 0.05], [0.2, 0.6, 0.1, 0.1], *np.full((2, 4), 0.25)])
    cycles, logits = predictions.pool_cycle_logits(rows, np.log(shares).astype(np.float32))
    assert cycles["x"].tolist() == [0, 3, 4]
    assert np.exp(logits[0]) == pytest.approx([0.3, 0.55, 0.075, 0.075], abs=1e-6)  # the two that said crackle
    tie = predictions.pool_cycle_logits(rows[:2], np.log(shares[:2]).astype(np.float32))[1]
    assert np.exp(tie[0]) == pytest.approx(shares[0], abs=1e-6)
    same, unchanged = predictions.pool_cycle_logits(rows[3:], np.log(shares[3:]).astype(np.float32))
    assert same is not rows
    assert np.array_equal(unchanged, np.log(shares[3:]).astype(np.float32))


def test_ast_fades_where_the_recording_ends_not_where_the_cycle_does(cycles: pd.DataFrame) -> None:
    first, last = cycles.iloc[0], cycles.iloc[3]
    prepare = make_preparation(make_recipe("ast_ft", ["audio.duration_s=1"], size="tiny"))
    plain = replace(prepare, settings={**prepare.settings, "fade_samples": 0})
    for row, faded in ((first, slice(0, 900)), (last, slice(15100, 16000))):
        with_fade, without = (made_of(row["path"], row["start_s"], row["end_s"]) for made_of in (prepare, plain))
        middle = slice(2000, 14000)
        assert np.array_equal(with_fade[middle], without[middle])
        assert np.abs(with_fade[faded]).sum() < np.abs(without[faded]).sum()
    inner, unfaded = (made_of(*cycles.loc[1, ["path", "start_s", "end_s"]])[:14900] for made_of in (prepare, plain))
    assert np.array_equal(inner, unfaded)


def test_several_processes_are_refused_where_they_would_change_the_result() -> None:
    two = DistributedContext(torch.device("cpu"), rank=0, world_size=2, dtype=None)
    with pytest.raises(ValueError, match="which 2 processes would share out among them; train it in one process"):
        finetune.check_batches(made("moummad_scl"), two)
    finetune.check_batches(made("ast_ft"), two)


def test_the_published_gate_of_ast_draws_for_each_clip() -> None:
    original = made("ast_ft", "fidelity=original")
    clips = torch.arange(400.0).repeat_interleave(128 * 20).view(400, 1, 128, 20) + torch.rand(128, 20)
    masked = original.augment(original.settings, clips, torch.Generator().manual_seed(0))
    untouched = float((masked == clips).flatten(1).all(dim=1).float().mean())
    assert untouched == pytest.approx(0.159, abs=0.06)

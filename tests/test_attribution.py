"""Where a decision came from: the grid points at the sound that was put in, and adds up."""

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from rales.audio.logmel import MelPower
from rales.errors import UsageError
from rales.inference import attribution
from rales.inference.predictor import Predictor
from tests import tiny

WHEEZE = 2


class BandDetector(nn.Module):
    """Known weights: the wheeze logit is the mean of one mel band over all frames, the other logits are 0."""

    def __init__(self, band: int) -> None:
        super().__init__()
        self.band = band
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, logmel: Tensor) -> Tensor:
        level = self.scale * logmel[:, 0, self.band].mean(dim=1)
        zero = torch.zeros_like(level)
        return torch.stack([zero, zero, level, zero], dim=1)


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model("audio.duration_s=4")


def tone_in_noise(hz: float, start_s: float, end_s: float, duration_s: float = 4.0) -> np.ndarray:
    time_s = np.arange(round(16000 * duration_s)) / 16000
    noise = 0.005 * np.random.default_rng(0).standard_normal(len(time_s))
    tone = 0.3 * np.sin(2 * np.pi * hz * time_s) * ((time_s >= start_s) & (time_s < end_s))
    return (noise + tone).astype(np.float32)


@pytest.mark.parametrize(("hz", "start_s", "end_s"), [(420.0, 1.0, 1.6), (1500.0, 2.6, 3.2), (250.0, 0.2, 0.5)])
def test_a_wheeze_tone_is_found_where_it_was_put(model: Predictor, hz: float, start_s: float, end_s: float) -> None:
    """A network that listens to the tone's band alone, so the truth is known."""
    filters = next(module.filters for module in model.torch_engine.frontend.modules() if isinstance(module, MelPower))
    centres_hz = attribution.band_centres_hz(filters, 16000)
    band = int(np.abs(centres_hz - hz).argmin())
    known = Predictor.from_network(model.recipe, BandDetector(band), model.record)
    found = attribution.attribute_patches(known, tone_in_noise(hz, start_s, end_s), "wheeze")
    row, column = np.unravel_index(found.grid.argmax(), found.grid.shape)
    half_patch_s = (found.time_s[1] - found.time_s[0]) / 2
    assert start_s - half_patch_s <= found.time_s[column] <= end_s + half_patch_s
    assert row == np.abs(found.hz - hz).argmin()
    during = (found.time_s > start_s) & (found.time_s < end_s)
    assert found.grid[row, during].min() > 2 * np.abs(found.grid[row, ~during][:-1]).mean()
    others = np.delete(found.grid, row, axis=0)
    assert np.abs(others).max() < 1e-6  # bands that the network does not look at


def test_contributions_add_up(model: Predictor) -> None:
    """Of a transformer too; a finer sum comes closer."""
    wave = tone_in_noise(400, 1.0, 2.0)
    for target in model.classes:
        errors = []
        for steps in (8, 128):
            found = attribution.attribute_patches(model, wave, target, steps=steps)
            change = found.log_odds - found.log_odds_without_sound
            errors.append(abs(found.grid.sum() - change))
        assert errors[1] < 0.02 * max(abs(change), 0.1)
        assert errors[1] <= errors[0] + 1e-4
    assert found.grid.shape == (5, 26)
    assert found.grid.dtype == np.float32
    assert np.all(np.diff(found.hz) > 0)
    assert found.hz[0] < 300
    assert found.hz[-1] > 4500
    assert found.time_s[0] == pytest.approx(0.08)


def test_log_odds_are_those_of_the_probabilities(model: Predictor) -> None:
    wave = tone_in_noise(400, 1.0, 2.0)
    p = model.probabilities(wave[None])[0, WHEEZE]
    found = attribution.attribute_patches(model, wave, "wheeze", steps=1)
    assert found.log_odds == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


@pytest.mark.parametrize("frontend", ["icbhi", "m2d_clip"])
def test_the_other_end_of_the_comparison_is_the_picture_of_nothing(frontend: str) -> None:
    """0 of the [0, 1] picture for the ICBHI front-end, the mean for one that is standardised."""
    model = tiny.model("audio.duration_s=4", f"frontend={frontend}")
    audio = model.recipe.settings.audio
    known = Predictor.from_network(model.recipe, BandDetector(3), model.record)
    found = attribution.attribute_patches(known, tone_in_noise(400, 1.0, 2.0), "wheeze", steps=1)
    lowest = -audio.mean / audio.std if frontend == "icbhi" else 0.0
    assert found.log_odds_without_sound == pytest.approx(3 * lowest - np.log(3), abs=1e-5)


def test_a_cycle_of_a_recording(model: Predictor, tmp_path: Path) -> None:
    data = tiny.write_folder(tmp_path / "data")
    recording = sorted(data.glob("*.wav"))[0]
    rows = model.predict(recording)
    found = attribution.explain_cycle(model, str(recording), 3)
    assert (found.start_s, found.end_s) == (2.0, 3.0)
    assert found.attribution.target == rows["label"][2]
    assert found.probabilities[rows["label"][2]] == pytest.approx(rows[f"p_{rows['label'][2]}"][2], abs=1e-6)
    cooler = copy.copy(model)
    cooler.calibration = {"temperature": 3.0}
    same = attribution.explain_cycle(cooler, str(recording), 3).probabilities
    assert list(same.values()) == pytest.approx(
        cooler.predict(recording).loc[2, [f"p_{name}" for name in same]], abs=1e-6
    )
    cells = attribution.make_patch_table(found)
    assert list(cells.columns) == ["hz", "time_s", "recording_s", "contribution"]
    assert len(cells) == 5 * 26
    assert cells["recording_s"].between(2.0, 3.0).all()  # 1 s repeated to fill 4
    assert np.allclose(cells["contribution"].to_numpy().reshape(5, 26), found.attribution.grid)
    attribution.plot_explanation(found, tmp_path / "why.png")
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    assert pd.Series(attribution.explanation_document(found)).notna().all()
    with pytest.raises(UsageError, match=r"--cycle 5: .* has cycles 1 to 4"):
        attribution.explain_cycle(model, str(recording), 5)
    with pytest.raises(UsageError, match="--target cough: expected one of normal, crackle"):
        attribution.explain_cycle(model, str(recording), 1, "cough")


def test_systems_that_see_no_logmel_say_so(model: Predictor) -> None:
    blind = Predictor.from_network(model.recipe, nn.Linear(1, 4), model.record, frontend=nn.Identity())
    with pytest.raises(ValueError, match="does not look at a log-mel picture"):
        attribution.attribute_patches(blind, tone_in_noise(400, 1, 2), "wheeze")

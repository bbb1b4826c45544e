"""The speed table: every path there is, plausible figures, no path that is missing in silence."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from benchmarks import page, pretrain_speed, vit_speed

from rales.cli import main
from rales.errors import UsageError
from rales.inference.engines import Engine, Probabilities, Waveforms
from rales.inference.predictor import Predictor
from rales.inference.torch_engine import TorchEngine
from rales.jobs import benchmark
from tests import tiny

KEYS = {"path", "batch", "ms_a_clip", "times", "gflops", "share_of_peak"}


def test_the_command_prints_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.save(tiny.model(), tmp_path / "model.safetensors")
    monkeypatch.setattr(benchmark, "engine_paths", few_paths)
    for more in (["--json"], []):
        with pytest.raises(SystemExit) as ended:
            main(["bench", "--model", str(tmp_path / "model.safetensors"), "--batch", "1", "--batch", "2", *more])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        if more:
            found = json.loads(out)
    assert "torch float32, packed" in out
    assert "left out: onnx float32: the package onnx is not installed" in out
    assert [(row["path"], row["batch"]) for row in found["rows"]] == [
        (name, batch) for batch in (1, 2) for name in (benchmark.EAGER, "torch float32, packed")
    ]
    assert all(set(row) == KEYS and row["ms_a_clip"] > 0 for row in found["rows"])
    assert found["rows"][0]["times"] == 1
    assert found["peak_gflops"]["float32"] > 1
    assert {row["path"] for row in found["from_disk"]} == {benchmark.EAGER, "torch float32, packed"}
    assert all(row["times_real_time"] == pytest.approx(20 / row["seconds"]) for row in found["from_disk"])
    assert found["machine"]["threads"] == torch.get_num_threads()


def few_paths(model: Predictor) -> Iterator[tuple[str, object]]:
    def missing() -> object:
        raise UsageError("the package onnx is not installed")

    yield from list(ALL_PATHS(model))[:2]
    yield "onnx float32", missing


ALL_PATHS = benchmark.engine_paths


def test_every_format_and_precision_is_a_path() -> None:
    names = [name for name, _ in benchmark.engine_paths(tiny.model())]
    assert {"onnx float32", "onnx int8", "openvino float32", "openvino bf16", "openvino int8"} <= set(names)


def test_bfloat16_takes_part_by_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `train.precision=auto` takes; emulated products, or none, leave it out in a sentence."""
    make = dict(benchmark.engine_paths(tiny.model()))["torch bf16, packed"]
    for bf16, taken, pays in ((400.0, True, True), (150.0, True, False), (20.0, False, False), (None, False, False)):
        peaks = {"float32": 200.0, "bf16": bf16}
        monkeypatch.setattr(benchmark, "measure_peak_gflops", peaks.get)
        assert benchmark.describe_machine(peaks)["bf16_pays"] is pays
        if taken:
            make()
        else:
            with pytest.raises(UsageError, match="200 in float32"):
                make()


class Asked(Exception):
    """What is to be timed is known."""


@pytest.mark.parametrize("script", [vit_speed, pretrain_speed])
def test_scripts_time_bfloat16_by_the_same_rule(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def note(turns: dict[str, object], *_: object) -> None:
        raise Asked(*turns)

    makers = ("training_step", "plain_step", "rales_step", "ViT", "M2D", "describe_machine")
    for name in (name for name in makers if hasattr(script, name)):
        monkeypatch.setattr(script, name, lambda *_, **__: lambda: 0.0)
    monkeypatch.setattr(script, "time_engines", note)
    monkeypatch.setattr("sys.argv", ["speed"])
    for bf16, taken in ((150.0, True), (20.0, False)):
        monkeypatch.setattr(benchmark, "measure_peak_gflops", {"float32": 200.0, "bf16": bf16}.get)
        with pytest.raises(Asked) as asked:
            script.main()
        assert (script.BF16 in asked.value.args) is taken


def test_operations_of_a_clip() -> None:
    """By hand: two blocks of width 24 on 192 + 8 frames, patches of 16 x 16, one unit of 201 frames in 13 columns."""
    model = tiny.model()
    patches, dim = 5 * 13, 24
    tokens = patches + 1
    linear = 2 * (2 * tokens * 12 * dim**2)  # 2 blocks; qkv 3, proj 1, mlp 8 of dim^2
    attention = 2 * (2 * 2 * tokens**2 * dim)
    edge = 2 * patches * 256 * dim + 2 * 2 * dim * 4
    assert benchmark.gflop_per_clip(model) == pytest.approx((linear + attention + edge) / 1e9, rel=1e-6)


def test_a_peer_is_what_the_ratios_are_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "engine_paths", few_paths)
    monkeypatch.setattr(benchmark, "make_untrained_predictor", lambda size: tiny.model())

    def slow(model: Predictor) -> Engine:
        eager = TorchEngine(model.torch_engine.frontend, model.network, torch.device("cpu"), precision=None)

        def engine(waveforms: Waveforms, /) -> Probabilities:
            for _ in range(4):
                eager(waveforms)
            return np.full((len(waveforms), 4), 0.25)

        return engine

    found = benchmark.run_benchmark(batches=(2,), rounds=3, peer=slow)
    assert found["times_as_fast_as"] == benchmark.PEER
    assert found["rows"][1]["times"] > 1.5


def test_the_page_of_speeds_by_hand() -> None:
    row = {"path": "front-end", "what": "16 clips", "ours_s": 0.25, "first_s": None, "error": None}
    row |= {"times_the_peer": page.ratio({"ours": [1, 2, 4], "peer": [3, 2, 2]}), "first_error": "no module named x"}
    assert page.ratio({"ours": [1.0]}) is None  # no peer
    *_, line, said = page.write_page({"machine": "two cores", "rows": [row]})
    assert line == "| front-end: 16 clips | 0.25 s | – | 1.00 | – | – | – | – |"
    assert said == "front-end of the first edition: no module named x"

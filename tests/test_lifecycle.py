"""What both loops share: one reader of losses, one claim of the folder, one way to go on."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rales.training import lifecycle, run_folder
from rales.training.distributed import DistributedContext

CPU = DistributedContext(torch.device("cpu"), 0, 1, None)
RECORD = {"recipe": "m2d_fusion", "config": {"train": {"lr": 0.5}}}


def run_in(folder: Path) -> lifecycle.Run:
    return lifecycle.Run(folder, dict(RECORD), CPU, finished=False, progress=False)


def loss_sums(folder: Path, **sums: float) -> lifecycle.LossSums:
    return lifecycle.LossSums(run_in(folder), 2, "train.lr", 0.5, sums or {"loss": 0.0})


def test_losses_are_read_once_in_so_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings: list[int] = []
    read = lifecycle.LossSums.read

    def counted(sums: lifecycle.LossSums) -> dict[str, float]:
        readings.append(len(sums.pending))
        return read(sums)

    monkeypatch.setattr(lifecycle.LossSums, "read", counted)
    losses = loss_sums(tmp_path)
    for step in range(1, 3 * lifecycle.READ_EVERY + 1):
        for _ in range(2):  # micro-batches
            losses.add(step, 0.25, loss=torch.tensor(float(step)))
    assert len(readings) == 2
    assert losses.read() == {"loss": 0.5 * sum(range(1, 3 * lifecycle.READ_EVERY + 1))}
    assert losses.pending == []


def test_sums_are_by_name_go_on_from_those_given_and_keep_no_graph(tmp_path: Path) -> None:
    losses = loss_sums(tmp_path, loss=1.0, gradient_norm=2.0)
    weight = nn.Parameter(torch.tensor(3.0))
    losses.add(1, 0.5, loss=2 * weight)
    assert not losses.pending[0][-1].requires_grad
    losses.add(1, gradient_norm=torch.tensor(4.0, dtype=torch.float64))
    assert losses.read() == {"loss": 4.0, "gradient_norm": 6.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_told_with_its_own_step(tmp_path: Path, value: float) -> None:
    losses = loss_sums(tmp_path)
    for step in range(1, lifecycle.READ_EVERY + 1):
        losses.add(step, loss=torch.tensor(value if step == 3 else 1.0))
    with pytest.raises(ValueError, match=f"the loss is {value} in epoch 2, step 3; use a lower train.lr than 0.5"):
        losses.add(lifecycle.READ_EVERY + 1, loss=torch.tensor(1.0))
    other = loss_sums(tmp_path, loss=0.0, gradient_norm=0.0)
    other.add(1, loss=torch.tensor(1.0), gradient_norm=torch.tensor(value))
    assert other.read()["loss"] == 1.0  # of the others nobody knows better


def test_a_folder_is_claimed_once_and_told_to_be_finished(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with lifecycle.open_run(folder, RECORD, CPU) as run:
        assert not run.finished
        assert run_folder.read_json(folder / "config.json") == {**RECORD, "computed_in": CPU.describe()}
        with (
            pytest.raises(ValueError, match="another process is at work there"),
            lifecycle.open_run(folder, RECORD, CPU),
        ):
            pytest.fail("claimed twice")
        run_folder.mark_done(folder)
    with lifecycle.open_run(folder, RECORD, CPU, progress=True) as run:
        assert (run.finished, run.progress) == (True, True)


def test_only_the_first_process_writes_and_shows_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DistributedContext, "gather", lambda self, value: [False, value])
    second = DistributedContext(torch.device("cpu"), 1, 2, None)
    with lifecycle.open_run(tmp_path / "run", RECORD, second, progress=True) as run:
        assert (run.finished, run.progress, run.context.is_main) == (False, False, False)
    assert not (tmp_path / "run").exists()


def test_weights_moments_and_state_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    optimisers = [{"step": torch.optim.Adam(model.parameters(), lr=0.1)} for model in (first, second)]
    first(torch.ones(1, 2)).sum().backward()
    optimisers[0]["step"].step()
    run_in(tmp_path).save_resume(first.state_dict(), optimisers[0], {"epoch": 3})

    def load(weights: dict[str, Tensor]) -> None:
        second.load_state_dict(weights)

    def resume(record: dict[str, Any], check_state: Any = lambda state, path: None) -> Any:
        return lifecycle.load_resume(
            tmp_path,
            record,
            weights=second.state_dict(),
            load_weights=load,
            optimisers=optimisers[1],
            check_state=check_state,
        )

    def refuse(state: Any, path: str) -> None:
        raise ValueError(f"{path}: {state['epoch']}")

    with pytest.raises(ValueError, match=r"resume.safetensors: 3"):
        resume(dict(RECORD), refuse)
    with pytest.raises(ValueError, match=r"is of another run \(config.train.lr is 0.5 there, 1.0 here\)"):
        resume({**RECORD, "config": {"train": {"lr": 1.0}}})
    assert not torch.equal(first.weight, second.weight)
    assert resume(dict(RECORD)) == {"epoch": 3}
    assert torch.equal(first.weight, second.weight)
    moments = [next(iter(optimiser["step"].state.values()))["exp_avg"] for optimiser in optimisers]
    assert torch.equal(*moments)

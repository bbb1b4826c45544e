"""A training epoch asks the device for numbers every READ_EVERY steps, not with every micro-batch."""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rales.data import read_cycles
from rales.data.corpus import read_corpus
from rales.recipes import m2d_pretrain
from rales.training import finetune, pretrain
from tests import tiny

READERS = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique"}


class WaitCounter(TorchFunctionMode):
    """Counts by place in the code what would wait for a GPU: numbers read of tensors that were computed of weights or
    of what was sent there, and copies to it that are waited for. The processor stands for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Counter[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        there = any(isinstance(each, nn.Parameter) or hasattr(each, "there") for each in tensors)
        name = getattr(func, "__name__", "")
        sends = name == "to" and any(isinstance(each, torch.device) for each in tree_leaves((args, kwargs)))
        masked = name == "__getitem__" and there and any(t.dtype == torch.bool for t in tensors[1:])
        if (there and name in READERS) or masked or (sends and not there and not kwargs.get("non_blocking")):
            self.waits[f"{name} {find_caller()}"] += 1
        for each in tree_leaves(result) if (there or sends) and name != "cpu" else ():
            if isinstance(each, Tensor):
                each.there = True  # type: ignore[attr-defined]
        return result


def find_caller() -> str:
    """-> the line of Rales that is at work."""
    frame = sys._getframe(1)
    while frame.f_back and "/rales/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def count_waits(monkeypatch: pytest.MonkeyPatch, loop: Any, run: Callable[[], object]) -> Counter[str]:
    """Module of a loop, a run of it -> the waits inside its epochs."""
    counter, train_epoch = WaitCounter(), loop.train_epoch

    def counted(*arguments: Any) -> Any:
        with counter:
            return train_epoch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_epoch", counted)
        run()
    return counter.waits


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("waits") / "data")


def test_what_is_counted() -> None:
    weight, drawn = nn.Parameter(torch.ones(3)), torch.rand(3)
    with WaitCounter() as counter:
        float(drawn[0])  # of the processor
        sent = drawn.to(torch.device("cpu"), non_blocking=True)
        loss = (weight * sent).sum()
        assert not counter.waits
        loss.item()
        bool(loss > 0)
        weight[torch.tensor([True, False, True])]
        torch.ones(3).to(torch.device("cpu"))
    assert sorted(name.split()[0] for name in counter.waits.elements()) == ["__bool__", "__getitem__", "item", "to"]


def test_fine_tuning_waits_by_the_epoch(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cycles = read_cycles(data)
    words = ["augment.device_gain=0.5", "augment.device_band_limit=0.5", "augment.time_warp_frames=10"]
    words += ["augment.time_shift=yes", "train.mixup=0.4", "train.sam_rho=0.05", "train.ema=0.9", "train.epochs=1"]

    def count(out: str, *sizes: str) -> Counter[str]:
        recipe = tiny.recipe(*words, *sizes)
        run = lambda: finetune.run(recipe, cycles, tmp_path / out, cache_folder=tmp_path / "cache")  # noqa: E731
        return count_waits(monkeypatch, finetune, run)

    few = count("two steps", "train.batch_size=10", "train.micro_batch=10")
    assert count("ten steps of two", "train.batch_size=2", "train.micro_batch=1") == few
    assert few.total() <= 7, few


def test_pre_training_waits_by_the_epoch(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = read_corpus([data])

    def count(out: str, *sizes: str) -> Counter[str]:
        config = tiny.pretraining("crops.noise_ratio=0.3", "pretrain.epochs=1", *sizes)
        run = lambda: m2d_pretrain.run(config, corpus, tmp_path / out, noise=corpus)  # noqa: E731
        return count_waits(monkeypatch, pretrain, run)

    few = count("two steps", "pretrain.batch_size=6", "pretrain.micro_batch=6")
    assert count("six steps of two", "pretrain.batch_size=2", "pretrain.micro_batch=1") == few
    assert few.total() <= 3, few

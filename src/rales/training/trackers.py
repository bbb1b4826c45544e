"""TensorBoard, W&B, MLflow and trackio as callbacks of a run (`rales train --log wandb`).

They write files of this machine and send nothing, unless the tracker's own variables say so: `WANDB_MODE=online`,
`MLFLOW_TRACKING_URI`, `TRACKIO_SPACE_ID`. Settings, figures and the path of the run folder are all that they get.
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rales.training import run_folder

PROJECT = "rales"


class TensorBoardCallback:
    """Event files in the run folder: `tensorboard --logdir runs`."""

    def start_run(self, folder: Path, settings: Mapping[str, Any], run_id: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer, self.epoch = SummaryWriter(folder / "tensorboard"), last_epoch(folder)
        rows = [f"| {name} | {value} |" for name, value in settings.items()]
        self._add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))
        self._add_text("run_folder", str(folder.resolve()))

    def _add_text(self, name: str, text: str) -> None:
        self.writer.add_text(name, text)

    def end_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.epoch = epoch
        for name, value in figures.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def end_run(self, figures: Mapping[str, float], *, finished: bool) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(f"final/{name}", value, self.epoch)
        self.writer.close()


class WandbCallback:
    """A run of Weights & Biases in the run folder; `wandb sync runs/own/wandb/offline-run-*` sends it."""

    def start_run(self, folder: Path, settings: Mapping[str, Any], run_id: str) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        nothing_of_machine: Any = {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}
        quiet = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, **nothing_of_machine)
        config = {**settings, "run_folder": str(folder.resolve())}
        named: dict[str, Any] = {"name": folder.name, "id": run_id, "resume": "allow", "reinit": "create_new"}
        self.run = wandb.init(project=project, mode=mode, dir=folder, config=config, settings=quiet, **named)

    def end_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=epoch)

    def end_run(self, figures: Mapping[str, float], *, finished: bool) -> None:
        self.run.summary.update({f"final/{name}": value for name, value in figures.items()})
        self.run.finish(exit_code=0 if finished else 1)


class MlflowCallback:
    """A run of MLflow in `mlruns` of the working folder, or where MLFLOW_TRACKING_URI says."""

    def start_run(self, folder: Path, settings: Mapping[str, Any], run_id: str) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # refused otherwise, in favour of a data base
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").as_posix())
        self.epoch = last_epoch(folder)
        experiment = self._find_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        if before := self.client.search_runs([experiment], f"tags.rales_run = '{run_id}'"):
            self.run_id = before[0].info.run_id
            return
        tags = {"rales_run": run_id, "run_folder": str(folder.resolve())}
        self.run_id = self.client.create_run(experiment, run_name=folder.name, tags=tags).info.run_id
        params = [Param(name, str(value)[:500]) for name, value in settings.items()]
        for start in range(0, len(params), 100):  # as many as it takes at a time
            self.client.log_batch(self.run_id, params=params[start : start + 100])

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        known = self.client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:  # another run of a sweep has made it just now
                known = self.client.get_experiment_by_name(name)
                if known is None:
                    raise
        return str(known.experiment_id)

    def end_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        self.epoch, now = epoch, time.time_ns() // 1_000_000
        named = {re.sub(r"[^\w./ -]", "_", name): value for name, value in figures.items()}  # what it takes as a name
        self.client.log_batch(self.run_id, metrics=[Metric(name, v, now, epoch) for name, v in named.items()])

    def end_run(self, figures: Mapping[str, float], *, finished: bool) -> None:
        self.end_epoch(self.epoch, {f"final/{name}": value for name, value in figures.items()})
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "FAILED")


class TrackioCallback:
    """A run of trackio in its own folder (`TRACKIO_DIR`): `trackio show`."""

    def start_run(self, folder: Path, settings: Mapping[str, Any], run_id: str) -> None:
        import trackio

        config = {**settings, "run_folder": str(folder.resolve())}
        quiet: dict[str, Any] = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self.run = trackio.init(PROJECT, f"{folder.name}-{run_id[:6]}", config=config, resume="allow", **quiet)
        self.epoch = last_epoch(folder)

    def end_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.epoch = epoch
        self.run.log(dict(figures), step=epoch)

    def end_run(self, figures: Mapping[str, float], *, finished: bool) -> None:
        self.run.log({f"final/{name}": value for name, value in figures.items()}, step=self.epoch)
        self.run.finish()


def last_epoch(folder: Path) -> int:
    """Run folder -> the epoch that it has come to, at which figures of its end are put if no other follows."""
    return max((line["epoch"] for line in run_folder.read_metrics(folder)), default=0)


TRACKERS: dict[str, type[Any]] = {  # by the name of the package, which is that of the extra, too
    "tensorboard": TensorBoardCallback,
    "wandb": WandbCallback,
    "mlflow": MlflowCallback,
    "trackio": TrackioCallback,
}

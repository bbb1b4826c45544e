"""Switch off the telemetry of the libraries that Rales uses.

The package itself (`rales/__init__.py`) calls this before any of them is imported, in worker processes too."""

import os
import sys

REFUSALS = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, from 1.29 on also on Linux: a device id in ~/.cache/Microsoft
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # behind transformers and hf:// addresses
    "MLFLOW_DISABLE_TELEMETRY": "true",  # to be asked for by --log, as
    "WANDB_ERROR_REPORTING": "false",
    "DO_NOT_TRACK": "1",  # what a growing number of tools look for
}
# OpenVINO and NNCF report through this package and do without where it cannot be imported; apart from a file in the
# home folder, they take only a variable CI as a no, which means other things to other programs.
REPORTS_FOR_OPENVINO = "openvino_telemetry"


def refuse_telemetry() -> None:
    """Tell every library in this process, and in those it starts, not to report to its maker.

    What the caller's own program has imported before stays as it was.
    """
    os.environ.update(REFUSALS)
    sys.modules.setdefault(REPORTS_FOR_OPENVINO, None)  # type: ignore[arg-type]  # so Python refuses to import it

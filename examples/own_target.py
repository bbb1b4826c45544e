"""A format of `rales export` from outside the package: PyTorch's own .pt2, which programs without Rales load.

rales export runs/m2d --to examples/own_target.py:PT2 --out m2d.pt2
rales predict recordings/ --model m2d.pt2 --engine examples/own_target.py:PT2 --out cycles.csv
"""

import json
from pathlib import Path
from typing import Any

import torch

from rales.export.target import ExportTarget
from rales.files.atomic import atomic_write
from rales.files.json_files import to_jsonable
from rales.inference.engines import Engine


def compile_graph(program: torch.export.ExportedProgram, precision: str) -> Engine:
    network = program.module()
    return lambda waveforms, **_: network(torch.from_numpy(waveforms)).detach().numpy()


def save_graph(program: torch.export.ExportedProgram, out: Path, record: dict[str, Any]) -> list[Path]:
    with atomic_write(out) as beside, beside.open("wb") as file:
        torch.export.save(program, file, extra_files={"rales": json.dumps(to_jsonable(record))})
    return [out]


def read_graph(path: Path) -> tuple[torch.export.ExportedProgram, dict[str, Any]]:
    extra = {"rales": ""}
    return torch.export.load(path, extra_files=extra), json.loads(extra["rales"])


PT2 = ExportTarget(
    name="pt2",
    suffix=".pt2",
    precisions=("float32",),
    packages={},
    make=lambda program, precision, cycles: program,
    compile=compile_graph,
    save=save_graph,
    read=read_graph,
)

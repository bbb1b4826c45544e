"""Commands on how a model is computed: `rales export` and `rales bench`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rales.cli import result_lines
from rales.cli.console import print_message, print_result
from rales.cli.options import (
    JsonFlag,
    LocalPathOrNone,
    Model,
    Out,
    SkipFlag,
    read_model_word,
)


def export(
    run: Model,
    /,
    *,
    out: Out,
    to: Annotated[str | None, Parameter(name=["--to", "--format"])] = None,
    precision: Literal["float32", "bf16", "int8"] = "float32",
    data: LocalPathOrNone = None,
    skip_damaged: SkipFlag = False,
    json: JsonFlag = False,
) -> None:
    """Write a model as one file from waveform to probabilities (ONNX, OpenVINO) that needs no PyTorch.

    Input `wave` (clips, samples), output `probabilities` (clips, classes). The file holds the front-end, the
    network and the answers it was made with, which are checked when it is made and when it is opened. `rales
    predict --model` takes it. Not a diagnosis.

    Example: rales export runs/m2d --to openvino --precision int8 --data ICBHI_final_database --out m2d-int8.xml

    Parameters
    ----------
    run
        Run folder of `rales train`, or its checkpoint file.
    out
        .onnx, or .xml for OpenVINO, whose weights go into a .bin beside it.
    to
        Format: onnx, openvino, or FILE.py:TARGET of an own one, which --engine names again to open it; without it the
        suffix of --out says which.
    precision
        float32 answers as the network does, to 1e-5. bf16 (OpenVINO) and int8 are faster where the processor has units
        for them (`rales bench` says), and drift.
    data
        Folder or manifest: int8 is calibrated on its train cycles, and the drift and every flipped label on its test
        cycles are reported.
    """
    from rales.data import read_cycles, splits
    from rales.export.build import check_request, export_model
    from rales.export.load import artefact_format
    from rales.inference.output_paths import check_outputs, model_files
    from rales.models.hub import SHIPPED
    from rales.training import run_folder

    to = to or artefact_format(out) or "onnx"
    check_request(out, to, precision, with_data=data is not None)
    files = [out, out.with_suffix(".bin")] if to == "openvino" else [out]
    check_outputs({"--out": files}, {"a file of the model": model_files(run), "the data": [data] if data else []})
    needs_split = splits.needs_list(run_folder.stored_split_name(SHIPPED.get(run, Path(run))))
    cycles = None
    if data is not None:
        label_set = run_folder.stored_label_set(SHIPPED.get(run, Path(run)))
        cycles = read_cycles(data, skip_damaged=skip_damaged, needs_split=needs_split, label_set=label_set)
    print_result(export_model(run, out, to, precision, cycles, progress=True), json, result_lines.export_lines)


def bench(
    *,
    model: Annotated[
        str | None, Parameter(converter=read_model_word, help="Run folder or checkpoint; without it an untrained one.")
    ] = None,
    size: Literal["tiny", "small", "base"] = "base",
    batch: Annotated[tuple[int, ...], Parameter(name="--batch", negative="")] = (1, 8),
    rounds: int = 5,
    json: JsonFlag = False,
) -> None:
    """Measure how fast this machine computes a model by every path it has, beside the peak of its matrix products.

    Every installed engine takes part; making the int8 graphs of the largest size takes minutes.

    Example: rales bench --size small

    Parameters
    ----------
    size
        Encoder of the untrained model, all layers fused.
    batch
        Clips at a time; repeatable.
    rounds
        Turns of every path; the median counts.
    """
    from rales.jobs import benchmark as job

    print_result(job.run_benchmark(model, size, batch, rounds, tell=print_message), json, result_lines.bench_lines)

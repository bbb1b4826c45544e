"""ONNX: a graph as one file that ONNX Runtime and many other programs execute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rales.environment import count_threads
from rales.export.parity import in_small_batches
from rales.export.target import ExportTarget, quiet_libraries
from rales.files import seals
from rales.files.atomic import atomic_write, temporary_folder
from rales.files.json_files import parse_json, to_jsonable
from rales.inference.engines import ARTEFACT_SUFFIXES, Engine, Probabilities, Waveforms

if TYPE_CHECKING:
    import torch

CLIPS = "clips"  # what the number of clips is called in a graph


def make_graph(program: torch.export.ExportedProgram, precision: str, calibration: Waveforms | None) -> Any:
    """Graph -> onnx.ModelProto. int8 has 8-bit weights per output channel; activations are measured as they pass."""
    import torch

    with quiet_libraries(), torch.no_grad():
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["wave"], output_names=["probabilities"]
        )
    assert exported is not None
    model = exported.model_proto
    name_clip_count(model)
    return quantize_graph(model) if precision == "int8" else model


def name_clip_count(model: Any) -> None:
    """onnx.ModelProto whose number of clips torch has called something -> the same, where it is called `CLIPS`."""
    (wave,) = model.graph.input
    torch_name = wave.type.tensor_type.shape.dim[0].dim_param
    for value in (wave, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == torch_name:
                size.dim_param = CLIPS


def quantize_graph(model: Any) -> Any:
    """onnx.ModelProto -> the same with the linear layers of the network in 8 bits, the front-end as it was.

    Weights must be signed: with unsigned ones ONNX Runtime has no fast product on these processors.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    weights = {value.name for value in model.graph.initializer}
    layers = [node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights]
    with temporary_folder() as folder, quiet_libraries():
        whole, path = folder / "float32.onnx", folder / "int8.onnx"
        onnx.save(model, whole)  # given a model, it would make a folder of its own, which outlives a kill
        quantize_dynamic(whole, path, weight_type=QuantType.QInt8, per_channel=True, nodes_to_quantize=layers)
        return onnx.load(path)


def compile_graph(graph: Any, precision: str) -> Engine:
    """onnx.ModelProto, or the session that `read_graph` opened -> engine.

    Clips go one by one, which is as fast: rounding is another in a batch, and in int8 all share one scale.
    """
    session = open_session(graph.SerializeToString()) if hasattr(graph, "SerializeToString") else graph

    def score(waveforms: Waveforms, /) -> Probabilities:
        probabilities: Probabilities = session.run(["probabilities"], {"wave": waveforms})[0]
        return probabilities

    return in_small_batches(score, 1)


def open_session(source: str | bytes) -> Any:
    """Path of a graph or its bytes -> onnxruntime.InferenceSession with as many threads as `count_threads` says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as the threads of torch: see cli
    options.add_free_dimension_override_by_name(CLIPS, 1)  # every size is known then, none computed again
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def save_graph(model: Any, out: Path, record: dict[str, Any]) -> list[Path]:
    """onnx.ModelProto and record -> FILE.onnx, sealed and renamed into place."""
    import onnx

    for node in [*model.graph.node, *(each for function in model.functions for each in function.node)]:
        node.doc_string = ""  # where torch's exporter stood: paths of this machine, and a tenth of the file
        del node.metadata_props[:]
    onnx.helper.set_model_props(model, {"seal": seals.UNSEALED, "rales": json.dumps(to_jsonable(record))})
    with atomic_write(out, bytes_needed=model.ByteSize()) as beside:
        beside.write_bytes(model.SerializeToString())
        seals.seal_file(beside)
    return [out]


def read_graph(path: Path) -> tuple[Any, dict[str, Any]]:
    """FILE.onnx -> what `compile_graph` takes, and the record. Errors: other bytes than were written, another's
    file."""
    seals.check_seal(path, "an artefact of `rales export`")
    session = open_session(str(path))
    return session, parse_json(session.get_modelmeta().custom_metadata_map.get("rales", "null"), f"{path}: its record")


TARGET = ExportTarget(
    name="onnx",
    suffix=ARTEFACT_SUFFIXES["onnx"],
    precisions=("float32", "int8"),
    packages={"onnx": "export", "onnxscript": "export", "onnxruntime": ""},
    only_to_make=("onnx", "onnxscript"),
    make=make_graph,
    compile=compile_graph,
    save=save_graph,
    read=read_graph,
)

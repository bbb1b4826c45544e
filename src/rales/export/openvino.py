"""OpenVINO: a graph as FILE.xml with its weights in FILE.bin, the fastest way on Intel processors."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rales.environment import count_processors, count_threads
from rales.errors import FileError
from rales.export.parity import CLIPS_AT_ONCE, in_small_batches
from rales.export.target import ExportTarget, quiet_libraries
from rales.files import seals
from rales.files.atomic import atomic_write, temporary_folder, written_by_library
from rales.files.json_files import parse_json, to_jsonable
from rales.inference.engines import ARTEFACT_SUFFIXES, Engine, Waveforms

if TYPE_CHECKING:
    import torch

PRODUCTS = ("Convolution", "MatMul")  # layers that int8 computes in 8 bits


def make_graph(program: torch.export.ExportedProgram, precision: str, calibration: Waveforms | None) -> Any:
    """Graph -> openvino.Model. bf16 is a way to execute the float32 graph; int8 is another graph."""
    import torch

    with quiet_libraries(), torch.no_grad():
        import openvino

        model = openvino.convert_model(program)
    (example,) = program.example_inputs[0]
    model.reshape([-1, example.shape[1]])
    model.inputs[0].get_tensor().set_names({"wave"})
    model.outputs[0].get_tensor().set_names({"probabilities"})
    if precision == "int8":
        assert calibration is not None
        model = quantize_graph(model, calibration)
    return reread_graph(model)


def reread_graph(model: Any) -> Any:
    """openvino.Model -> the same as a file of it will be read, with other nodes: what is measured is what is written.

    The two differ by the rounding of bfloat16.
    """
    import openvino

    with temporary_folder() as folder:
        made = write_pair(model, folder / "model.xml")
        return openvino.Core().read_model(made.read_bytes(), made.with_suffix(".bin").read_bytes())


def write_pair(model: Any, path: Path) -> Path:
    """openvino.Model -> the path of its .xml, with a .bin beside it. Errors: OSError, where there is no room."""
    import openvino

    with written_by_library(path):
        openvino.save_model(model, path, compress_to_fp16=False)
    return path


def quantize_graph(model: Any, calibration: Waveforms) -> Any:
    """openvino.Model and prepared cycles -> the same with 8-bit products in the network, the front-end as it was."""
    front = [node.get_friendly_name() for node in find_ancestors(find_logmel_node(model))]
    products = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in PRODUCTS]
    with quiet_libraries():
        import nncf

        return nncf.quantize(
            model,
            nncf.Dataset([clip[None] for clip in calibration]),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=[name for name in products if name in front]),
        )


def find_logmel_node(model: Any) -> Any:
    """openvino.Model -> the node whose output is the log-mel that the network's first convolution cuts into patches."""
    cuts = [n for n in model.get_ordered_ops() if n.get_type_name() == "Convolution" and output_rank(n) == 4]
    node = cuts[0].input_value(0).get_node()
    while node.get_type_name() in ("Pad", "Slice", "StridedSlice", "Split", "VariadicSplit"):
        node = node.input_value(0).get_node()
    return node


def output_rank(node: Any) -> int:
    length: int = node.get_output_partial_shape(0).rank.get_length()
    return length


def find_ancestors(node: Any) -> list[Any]:
    """Node -> itself and every node that it is computed from."""
    found, open_ends = {}, [node]
    while open_ends:
        one = open_ends.pop()
        if one.get_friendly_name() not in found:
            found[one.get_friendly_name()] = one
            open_ends += [value.get_node() for value in one.input_values()]
    return list(found.values())


def compile_graph(model: Any, precision: str) -> Engine:
    """openvino.Model or path of a file -> engine with as many threads as `count_threads` says.

    The precision is always said: left alone OpenVINO takes bfloat16 on every processor that has some instruction for
    it, which changes answers by 1e-2 and is slower than float32 where there are no matrix units. The front-end
    computes in float32 whatever the network does, since half-width samples drown quiet bands in loud ones' rounding.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(model) if isinstance(model, Path) else model
    if precision != "bf16":
        return in_small_batches(compile_for_processor(core, model, "f32"), CLIPS_AT_ONCE)
    front, network = cut_frontend(model.clone()), cut_network(model.clone())
    first, second = compile_for_processor(core, front, "f32"), compile_for_processor(core, network, "bf16")
    return in_small_batches(lambda waves: second(first(waves)), CLIPS_AT_ONCE)


def compile_for_processor(core: Any, model: Any, precision: str) -> Callable[[Any], Any]:
    """openvino.Model -> function of one array, compiled for the processor; as many threads as it leaves room for may
    call it side by side."""
    threads = count_threads()
    streams = max(1, count_processors() // threads)
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": streams * threads,
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,  # else every process of a batch job pins itself to the first processor
    }
    compiled_model, own = core.compile_model(model, "CPU", settings), threading.local()

    def inferred(array: Any) -> Any:
        if not hasattr(own, "request"):
            own.request = compiled_model.create_infer_request()
        return own.request.infer({0: array}, share_inputs=True, share_outputs=True)[0]

    return inferred


def cut_frontend(model: Any) -> Any:
    """openvino.Model, which is used up -> its front-end alone."""
    import openvino

    return openvino.Model([find_logmel_node(model).output(0)], model.get_parameters())


def cut_network(model: Any) -> Any:
    """openvino.Model, which is used up -> its network alone. The number of clips, asked of the wave, is that of the
    pictures."""
    import openvino
    from openvino import opset13

    logmel = find_logmel_node(model).output(0)
    between = opset13.parameter(logmel.get_partial_shape(), logmel.get_element_type())
    sizes = [t for wave in model.inputs for t in wave.get_target_inputs() if t.get_node().get_type_name() == "ShapeOf"]
    for target in [*logmel.get_target_inputs(), *sizes]:
        target.replace_source_output(between.output(0))
    return openvino.Model(model.get_results(), [between])


def save_graph(model: Any, out: Path, record: dict[str, Any]) -> list[Path]:
    """openvino.Model and record -> FILE.bin and FILE.xml, sealed and renamed into place; the xml knows the bin by its
    SHA-256."""
    weights = out.with_suffix(".bin")
    with temporary_folder() as folder:
        made = write_pair(model, folder / "model.xml")
        content = made.with_suffix(".bin").read_bytes()
        model.set_rt_info(json.dumps(to_jsonable(record | {"bin": hashlib.sha256(content).hexdigest()})), ["rales"])
        model.set_rt_info(seals.UNSEALED, ["seal"])
        write_pair(model, made)
        seals.seal_file(made)
        with atomic_write(weights, bytes_needed=len(content)) as beside:
            beside.write_bytes(content)
        with atomic_write(out) as beside:
            beside.write_bytes(made.read_bytes())
    return [out, weights]


def read_graph(path: Path) -> tuple[Path, dict[str, Any]]:
    """FILE.xml -> what `compile_graph` takes, and the record. Errors: other bytes than were written, another's file, no
    weights."""
    import openvino

    seals.check_seal(path, "an artefact of `rales export`")

    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise FileError(path, f"its weights are missing; copy {weights.name} beside it")
    model = openvino.Core().read_model(path)
    told = str(model.get_rt_info(["rales"]).value) if model.has_rt_info(["rales"]) else "null"
    record = parse_json(told, f"{path}: its record")
    if isinstance(record, dict) and record.get("bin") != hashlib.sha256(weights.read_bytes()).hexdigest():
        raise FileError(path, f"{weights.name} beside it is damaged, cut or of another model; copy both files again")
    return path, record


TARGET = ExportTarget(
    name="openvino",
    suffix=ARTEFACT_SUFFIXES["openvino"],
    precisions=("float32", "bf16", "int8"),
    packages={"openvino": "openvino"},
    to_quantize={"nncf": "quantize"},
    make=make_graph,
    compile=compile_graph,
    save=save_graph,
    read=read_graph,
)

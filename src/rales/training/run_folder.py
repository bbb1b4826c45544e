"""The run folder: one training run on disk, readable without this package.

`config.json` (what was asked and what it ran on), `metrics.jsonl` (a line per epoch and split), `epochs.safetensors`
(what the network said after each), `predictions.csv`, `predictions_validation.csv` where patients are held out,
`last.safetensors`, `best.safetensors`, `layer_weights.json`, `resume.safetensors` and the one before it while
unfinished, `done` last. Every file is written beside its place and renamed, so a reader (or a killed run) never sees
half of one.
"""

import json
import logging
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rales.errors import FileError, MissingFileError
from rales.files import seals
from rales.files.atomic import atomic_write, check_name, make_folder, sync_folder
from rales.files.json_files import DAMAGED, flatten_json, parse_json, read_json_lines, to_jsonable
from rales.files.json_files import read_json as read_json_file
from rales.files.writers import write_json
from rales.labels import ICBHI, LabelSet
from rales.settings import from_dict, to_dict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

log = logging.getLogger(__name__)

RESUME, PREVIOUS = "resume.safetensors", "resume.previous.safetensors"  # the last whole epoch, and the one before
NEXT = "resume.next.safetensors"  # until the other two have made room for it
# May be there before the first whole epoch is
EARLY = (
    NEXT,
    "metrics.jsonl",
    "epochs.safetensors",
    "best.safetensors",
    "statistics.json",
    "teacher_statistics.safetensors",
    "log.jsonl",
)
# May differ between a run and its continuation: what was left out names files, which may have moved, as may the file of
# a recipe, whose SHA-256 stays; what was overridden is in the config too. Recomputed activations change no number, and
# a run that ran out of memory goes on with them.
RESUME_IGNORES = (
    "command",
    "versions",
    "commit",
    "overrides",
    "split.left_out",
    "data.folders",
    "noise.folders",
    "recipe_source.file",
    "config.model.recompute",
    "config.encoder.recompute",
)
IDENTITY = ("recipe", "config", "seed")  # of a run, in config.json and in its checkpoints


def begin_run(folder: Path, record: Mapping[str, Any], section: "type[DataclassInstance] | None" = None) -> bool:
    """Make or reopen a run folder; -> True if it holds a finished run of the same record.

    An unfinished run of the same record goes on; what that is, says `find_differences`, whose `section` this is.
    Errors: a folder that holds a run of other settings (named), or other files, or cannot be written to.
    """
    make_folder(folder)
    if not (folder / "config.json").exists():
        if found := unexpected_files(folder):
            raise FileError(folder, f"not a run folder, but it holds {', '.join(found[:3])}; choose an empty --out")
        write_json(folder / "config.json", record)
        return False

    stored = read_json(folder / "config.json")
    if "recipe" not in stored:
        raise FileError(folder, "not a run folder, its config.json is of something else; choose an empty --out")
    if not (folder / "done").exists() and not has_resume(folder):  # stopped before the first epoch was done
        for file in (*(folder / name for name in EARLY), *folder.glob("checkpoint-*.safetensors")):
            file.unlink(missing_ok=True)  # maybe of other settings
        write_json(folder / "config.json", record)
        return False

    finished = (folder / "done").exists()
    differences = find_differences(record, stored, section=section)
    names = [name for name in differences if not (finished and name.startswith("computed_in"))]
    if names:
        there, here = differences[names[0]]
        raise FileError(
            folder,
            f"holds a run of other settings ({names[0]} is {there!r} there, {here!r} here"
            f"{f', and {len(names) - 1} more' if len(names) > 1 else ''}); choose another --out or remove the folder",
        )

    clear_leftovers(folder)
    return finished


def find_differences(
    record: Mapping[str, Any],
    stored: Mapping[str, Any],
    parts: tuple[str, ...] = ("",),
    section: "type[DataclassInstance] | None" = None,
) -> dict[str, tuple[Any, Any]]:
    """Record of a run, and one that it, or the version before, has stored -> what makes them two runs: dotted name ->
    value there and here.

    Parameters
    ----------
    record, stored
        A setting that `stored` lacks, since its version did not have it, has there the default that it has where a
        model is loaded. What `stored` alone has counts only if it is a setting or the recipe's.
    parts
        Beginnings of the names that count; all do that are not in RESUME_IGNORES.
    section
        The dataclass of the settings, which knows their defaults. Without it a setting that is not there is not judged.
    """
    filled = dict(to_jsonable(stored))
    asked_there = filled.get("asked")
    if isinstance(asked_there, dict):
        filled["asked"] = _fill_in(asked_there, section)
    here, there = flatten_json(to_jsonable(record)), flatten_json(_fill_in(filled, section))
    not_judged = section is None and isinstance(stored.get("config"), Mapping)

    found = {}
    for name in dict.fromkeys((*here, *there)):
        plain = name.removeprefix("asked.")  # what the run that this is a stage of was asked for
        if not name.startswith(parts) or plain.startswith(RESUME_IGNORES) or here.get(name) == there.get(name):
            continue
        of_settings = plain.startswith("config.")
        if (name in here or of_settings or name.startswith("recipe")) and not (
            not_judged and of_settings and name not in there
        ):
            found[name] = (there.get(name), here.get(name))
    return found


def _fill_in(record: dict[str, Any], section: "type[DataclassInstance] | None") -> dict[str, Any]:
    """Record -> the same, whose settings have the defaults of those that it lacks; as it is, where they are none."""
    with suppress(ValueError):  # what this version does not know or allow is named as a difference
        if section is not None:
            return {**record, "config": to_dict(from_dict(section, record.get("config"), "config.json"))}
    return record


def clear_leftovers(folder: Path) -> None:
    """Remove from a run folder what a kill left: what a finished run would go on from, or an unfinished one not yet."""
    for name in (RESUME, PREVIOUS, NEXT) if (folder / "done").exists() else (NEXT,):
        (folder / name).unlink(missing_ok=True)


def has_resume(folder: Path) -> bool:
    """Whether an unfinished run in the folder has a whole epoch to go on from."""
    return any((folder / name).exists() for name in (RESUME, PREVIOUS))


def check_same_run(path: Path, stored: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Record in a checkpoint from which a run is to go on, and the run's own: ValueError if another run wrote it. Of a
    setting that it lacks, `begin_run` has judged by the record beside it."""
    for name, (there, here) in find_differences(record, stored, (*IDENTITY, "split.digest")).items():
        raise FileError(
            path,
            f"is of another run ({name} is {there!r} there, {here!r} here); "
            "put its own back, or train again in an empty folder",
        )


def unexpected_files(folder: Path) -> list[str]:
    """Folder that is to be empty -> the names of what is in it, sorted; hidden files do not count."""
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))


def stored_precision(folder: Path) -> str | None:
    """-> the precision that an unfinished run in the folder computes in, so that its continuation does the same even
    where "auto" would now decide otherwise; None if there is nothing to go on with."""
    if not has_resume(folder):
        return None
    computed_in = read_json(folder / "config.json").get("computed_in")
    precision = computed_in.get("precision") if isinstance(computed_in, dict) else None
    if precision not in ("float32", "bf16"):
        raise FileError(folder / "config.json", f"has no usable `computed_in.precision`; {DAMAGED}")
    return str(precision)


def append_metrics(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Add one JSON line per split of an epoch."""
    with atomic_write(folder / "metrics.jsonl") as path:
        path.write_text("".join(json.dumps(to_jsonable(line)) + "\n" for line in [*read_metrics(folder), *lines]))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """-> the lines of metrics.jsonl; one that was cut off at the very end is left out. Errors: damage elsewhere."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = read_json_lines(path)
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or type(line.get("epoch")) is not int:
            raise FileError(path, line=number, reason=f"no figures of an `epoch`; {DAMAGED}")
    return lines


def truncate_metrics(folder: Path, epoch: int) -> None:
    """Drop the metrics of epochs after `epoch`: a killed run repeats them. Errors: one before it is not there."""
    kept = [line for line in read_metrics(folder) if line["epoch"] <= epoch]
    if missing := set(range(1, epoch + 1)) - {line["epoch"] for line in kept}:
        raise FileError(folder / "metrics.jsonl", f"holds nothing of epoch {min(missing)}; {DAMAGED}")
    with atomic_write(folder / "metrics.jsonl") as path:
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))


def read_notes(folder: Path) -> list[dict[str, Any]]:
    """-> the lines of log.jsonl, none if there is no such file."""
    path = folder / "log.jsonl"
    lines = read_json_lines(path) if path.exists() else []
    for number, note in enumerate(lines, start=1):
        if not isinstance(note, dict) or not all(isinstance(note.get(name), str) for name in ("recording", "what")):
            raise FileError(path, line=number, reason=f"no note on a `recording`; {DAMAGED}")
    return lines


def append_notes(folder: Path, notes: list[dict[str, str]]) -> None:
    """Add to log.jsonl a JSON line for each note on a recording (recording, what, why) that it does not have yet."""
    lines = read_notes(folder)
    known = {(note["recording"], note["what"]) for note in lines}
    for note in map(to_jsonable, notes):
        if (key := (note["recording"], note["what"])) not in known:
            known.add(key)
            lines.append(note)
    if notes:
        with atomic_write(folder / "log.jsonl") as beside:
            beside.write_text("".join(json.dumps(note) + "\n" for note in lines))


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], more: Mapping[str, str] | None = None
) -> None:
    """Tensors, a JSON record and more metadata -> one sealed safetensors file, written beside its place and renamed.

    The same run leaves the same bytes. Errors: a full disk is a sentence with the size that was needed; the file that
    stood there before stays.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {**(more or {}), "rales": json.dumps({"seal": seals.UNSEALED, **to_jsonable(record)})}
    with atomic_write(path, bytes_needed=sum(t.numel() * t.element_size() for t in contiguous.values())) as beside:
        beside.touch()
        mode = beside.stat().st_mode
        save_file(contiguous, beside, metadata=metadata)
        sort_metadata(beside)
        seals.seal_file(beside)
        beside.chmod(mode)  # safetensors writes for the owner alone, but colleagues read each other's runs


def sort_metadata(path: Path) -> None:
    """Bring the metadata of a safetensors file into the order of their names; it writes several in random order."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:  # written in another style than ours: better random than broken
            return
        file.seek(8)
        file.write(text.ljust(length))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Checkpoint written by `save_tensors` -> (tensors, record); anything else, or other bytes, is a sentence."""
    if not path.is_file():
        raise MissingFileError(path, "no such checkpoint; a run folder holds best.safetensors once an epoch is done")
    check_name(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "rales" not in metadata:
                raise FileError(
                    path,
                    "a safetensors file without a Rales record, so it is no trained model; "
                    "pre-trained encoders go in with --weights",
                )
            seals.check_seal(path, "a checkpoint of Rales")
            record = parse_json(metadata["rales"], f"{path}: its record", "train or copy it again")
            if not isinstance(record, dict):
                raise FileError(path, "its record is no object; train or copy it again")
            record.pop("seal", None)  # of this file alone
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118
    except SafetensorError as error:
        raise FileError(path, f"damaged, cut or not a safetensors file ({error}); train or copy it again") from error


def save_resume(folder: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """What a run goes on from -> RESUME; the one before becomes PREVIOUS once the new one is whole."""
    save_tensors(folder / NEXT, tensors, record)
    with safe_open(folder / NEXT, framework="pt"):  # its length is what its beginning says
        pass
    with suppress(FileNotFoundError):  # there is none after the first epoch
        (folder / RESUME).replace(folder / PREVIOUS)
    (folder / NEXT).replace(folder / RESUME)
    sync_folder(folder)


def read_resume(
    folder: Path, take: Callable[[Mapping[str, Tensor], Mapping[str, Any], Path], None]
) -> dict[str, Any] | None:
    """Folder of an unfinished run -> the state of what it goes on from, once `take` (tensors, record, path) has taken
    it; None if there is nothing.

    Where RESUME is damaged, or `take` refuses it, a warning says so and PREVIOUS is taken. Errors: damaged, and there
    is no other.
    """
    problem: ValueError | OSError | None = None
    for path in (folder / RESUME, folder / PREVIOUS):
        if not (path.exists() or path.is_symlink()):
            continue
        try:
            tensors, record = read_checkpoint(path)
            take(tensors, record, path)
        except (ValueError, OSError) as error:
            problem = problem or error
            continue
        if problem is not None:
            log.warning("%s; the run goes on from the one before it, %s", problem, path.name)
        return dict(record["state"])
    if problem is not None:
        raise problem
    return None


def mark_done(folder: Path) -> None:
    """Say that a run is finished: `done`, after all that it stands for, and nothing to go on from any more."""
    with atomic_write(folder / "done") as beside:
        beside.touch()
    clear_leftovers(folder)


def read_json(path: Path) -> dict[str, Any]:
    """File -> JSON object; all that is none is a sentence."""
    try:
        value = read_json_file(path)
    except FileNotFoundError as error:
        raise MissingFileError(path, f"no such file; is {path.parent} a run folder?") from error
    if not isinstance(value, dict):
        raise FileError(path, f"holds a JSON {type(value).__name__}, expected an object")
    return value


def stored_split_name(run: Path) -> str:
    """Run folder -> the split that its record names, "" for what is no run folder."""
    if not (run / "config.json").is_file():
        return ""
    config = flatten_json(read_json(run / "config.json"))
    return str(config.get("config.split.name", ""))


def stored_label_set(run: Path) -> LabelSet:
    """Run folder or checkpoint -> the classes that its record names, those of ICBHI for what is neither."""
    record: Any = {}
    if (run / "config.json").is_file():
        record = read_json(run / "config.json")
    elif run.is_file():
        record = read_checkpoint(run)[1]
    names = record.get("classes")
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return LabelSet.from_record(record) if known else ICBHI  # a damaged record is told of when it is loaded

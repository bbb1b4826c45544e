"""Options that several words of the command share, each with the sentence that `--help` prints."""

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter, Token, convert

from rales.cli.console import print_messages_once
from rales.files.csv_cells import make_encodable
from rales.files.stores import refuse_url

if TYPE_CHECKING:
    from rales.labels import LabelSet


def read_local_path(kind: Any, tokens: Sequence[Token]) -> Any:
    """Words for files or folders -> as their option takes them. Errors: a URL, which as a path would be a folder `s3:`
    here."""
    for token in tokens:
        refuse_url(token.value)
    return convert(kind, tokens)


def read_model_word(kind: Any, tokens: Sequence[Token]) -> Any:
    """The same for models, which may lie on the Hugging Face Hub."""
    for token in tokens:
        if not token.value.startswith("hf://"):
            refuse_url(token.value)
    return convert(kind, tokens)


LocalPath = Annotated[Path, Parameter(converter=read_local_path)]
LocalPathOrNone = Annotated[Path | None, Parameter(converter=read_local_path)]
Databases = Annotated[tuple[Path, ...], Parameter(name="--data", negative="", required=True, converter=read_local_path)]
Model = Annotated[str, Parameter(converter=read_model_word)]
Out = Annotated[Path, Parameter(alias="-o", converter=read_local_path)]
OutOrNone = Annotated[Path | None, Parameter(alias="-o", converter=read_local_path)]
PlaceOrNone = Annotated[str | None, Parameter(alias="-o")]
"""A path, or an address in an object store."""
JsonFlag = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document on stdout.")]
SetWords = Annotated[
    tuple[str, ...],
    Parameter(name="--set", negative="", help="name.of.field=value of the recipe's settings; repeatable."),
]
Config = Annotated[
    Path | None,
    Parameter(
        name="--config",
        converter=read_local_path,
        help="YAML file of settings by the names of --set, nested or dotted; what the command says wins over it.",
    ),
]
Log = Annotated[
    tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...],
    Parameter(
        name="--log",
        negative="",
        help="Log every epoch to this tracker, too, on this machine alone unless its own variables say otherwise; "
        "repeatable.",
    ),
]
SkipFlag = Annotated[
    bool,
    Parameter(
        name="--skip-damaged", negative="", help="Leave damaged recordings out instead of stopping at the first."
    ),
]
Data = Annotated[
    Path,
    Parameter(
        converter=read_local_path,
        help="Folder of ICBHI, SPRSound or HF_Lung_V1, one of clips in a folder per class or a pattern of those "
        "(clips/{label}/{patient}_*.wav), an own table (CSV, Parquet, JSON), or FILE.py:READER:PATH for what an own "
        "reader reads.",
    ),
]
Recordings = Annotated[
    str, Parameter(help="Recordings, folders that are searched through, globs, or URLs of those (s3://, https:// …).")
]
Run = Annotated[
    str | None,
    Parameter(
        name="--model",
        converter=read_model_word,
        help="Run folder of `rales train`, or its checkpoint file; without it the package's own model.",
    ),
]
Device = Annotated[
    str | None, Parameter(name="--device", help="Where to compute: cpu, cuda, cuda:1, mps; auto takes a GPU if one is.")
]
Cycles = Annotated[
    Literal["auto", "annotation", "segment", "windows"],
    Parameter(
        name="--cycles",
        help="annotation: that of a recording (ICBHI, Audacity, Raven, times, SPRSound's JSON). segment: breaths found "
        "in its sound, else windows. windows: of 4 s. auto: the first of these that is there.",
    ),
]
Gate = Annotated[
    Literal["on", "off"],
    Parameter(
        name="--quality",
        help="on: a cycle whose sound cannot be judged (silence, a steady noise, a voice, no chest) gets no answer but "
        "the reason. off: every cycle gets an answer.",
    ),
]
Weights = Annotated[
    str | None,
    Parameter(
        name="--weights",
        converter=read_model_word,
        help="Checkpoint to start from: a file; for M2D also a run folder (its encoder and what that hears go on, its "
        "head does not), rales, or a name that `rales weights` lists.",
    ),
]
From = Annotated[
    str | None,
    Parameter(
        name="--from",
        converter=read_model_word,
        help="Trained model to go on from: a run folder, its checkpoint, rales or rales-mn04. Its sound, network, "
        "layers and, where the classes are the same, its classification layer go on, at a tenth of its learning rate.",
    ),
]
Freeze = Annotated[
    str | None,
    Parameter(
        name="--freeze",
        help="What stays as it starts: a number of the encoder's first blocks, encoder (all but the classification "
        "layer and the weights of layers), or none.",
    ),
]
Size = Annotated[
    Literal["tiny", "small", "base"] | None,
    Parameter(name="--size", help="Size of the network without weights; earlier systems have tiny and base."),
]
Epochs = Annotated[
    int | None,
    Parameter(
        name="--epochs", help="Passes over the training cycles (150 in the paper; of several stages, the first)."
    ),
]
Select = Annotated[
    Literal["last", "validation", "test_best"] | None,
    Parameter(
        name="--select",
        help="Which epoch is kept. validation: by the mean AUROC of crackles and wheezes on held-out train patients "
        "(--set train.select_by=score for the ICBHI Score). test_best: the paper's protocol, which looks at the test "
        "set; the report says so, and gives it from runs of `last` too.",
    ),
]
Classes = Annotated[
    str | None,
    Parameter(
        name="--classes",
        help="What is told apart instead of ICBHI's four classes, as the data calls it: 2 to 20 names with commas "
        "between them, the first for nothing abnormal; or sprsound_1_1, _1_2, _2_1 or _2_2 for a task of SPRSound's "
        "challenges, of which the last two are about whole recordings.",
    ),
]
Independent = Annotated[
    bool,
    Parameter(
        name="--independent", negative="", help="Each of --classes is a yes or no of its own; a cycle may have several."
    ),
]
Part = Annotated[Literal["train", "all"], Parameter(name="--part")]
Engine = Annotated[
    Literal["local", "ray", "slurm"],
    Parameter(
        help="local: processes on this machine. ray, slurm: a cluster of that kind, whose nodes share the folders."
    ),
]
Sbatch = Annotated[
    tuple[str, ...],
    Parameter(
        name="--sbatch",
        negative="",
        help="name=value of sbatch for the jobs of slurm, such as partition=gpu, time=120, gpus-per-node=1; "
        "repeatable.",
    ),
]
ComputedBy = Annotated[
    str,
    Parameter(
        name="--engine",
        help="What computes the probabilities: torch, onnx, openvino, or FILE.py:TARGET of an own format of `rales "
        "export`. auto: the artefact's own, else the fastest that agrees with torch.",
    ),
]
Processes = Annotated[int | None, Parameter(name="--processes", help="Work at a time; all processors by default.")]
Address = Annotated[
    str | None, Parameter(name="--address", help="Ray cluster to join; without it one is started on this machine.")
]
Form = Literal["csv", "json", "parquet", "audacity", "raven"]


@Parameter(name="*")
@dataclass(frozen=True)
class Cluster:
    """Where the runs of a study are trained and logged, as `rales.jobs.sweep.run` takes it."""

    engine: Engine = "local"
    processes: Processes = None
    address: Address = None
    sbatch: Sbatch = ()
    log: Log = ()


@Parameter(name="*")
@dataclass(frozen=True)
class Changes:
    """Settings that all runs of a study have otherwise than their recipe."""

    size: Size = None
    epochs: Epochs = None
    config: Config = None
    set_: SetWords = ()

    def read_words(
        self, *, select: str | None = None, varied: Sequence[str] = (), **start: str | None
    ) -> AbstractContextManager[list[str]]:
        """What else all runs have, and words of what they vary -> `with` this, the words of all settings."""
        own = {"size": self.size, **start, "train.epochs": self.epochs, "train.select": select}
        return add_settings_file(self.config, [*words_of(own), *self.set_], varied)


def words_of(given: Mapping[str, object]) -> list[str]:
    """Fields and their values -> `name=value` words of those that were given."""
    return [f"{name}={value}" for name, value in given.items() if value is not None]


@contextmanager
def add_settings_file(config: Path | None, words: Sequence[str], grid: Sequence[str] = ()) -> Iterator[list[str]]:
    """File of --config, `name=value` words of the command, and those that it varies -> the words of both, the command's
    last; what differs is said, and inside `with` an error with a setting of the file names its line."""
    if config is None:
        yield list(words)
        return
    from rales.files.settings_file import read_settings_file

    kept, notes = read_settings_file(config).leave_to([*words, *grid])
    print_messages_once(notes)
    with kept.name_lines():
        yield [*words_of(kept.values), *words]


def command_line() -> str:
    """-> the command as it was typed, for the record of a run."""
    return make_encodable(shlex.join(["rales", *sys.argv[1:]]))


def read_label_set(classes: str | None, *, independent: bool) -> "LabelSet":
    """Words of --classes and --independent -> the label set, ICBHI's without any. Errors: as those of settings."""
    from rales.settings import RunSettings, check_together, set_fields

    settings = set_fields(RunSettings(), {"independent": independent, **({"classes": classes} if classes else {})})
    check_together(settings)
    return settings.label_set

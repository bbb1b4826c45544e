"""The command `rales`: one function a word, each a few lines that call a job.

Exit codes: 0 done, 1 the job ran and found a problem it reports, 2 wrong usage. With `--json` one JSON document goes
to stdout; everything else a person reads goes to stderr.
"""

import os
import re
import signal
import sys
from collections.abc import Callable
from inspect import Parameter as Kind
from inspect import getdoc
from typing import Any

from cyclopts import App, CycloptsError, Group, Parameter, UnknownOptionError

from rales import __version__
from rales.cli import agreement, data, export, predict, serve, studies, train
from rales.cli.console import print_message
from rales.optional_packages import explain_missing

app = App(
    name="rales",
    help="Crackles and wheezes in the breathing cycles of a stethoscope recording. A research tool, not a diagnosis."
    "\n\nExample: rales predict recording.wav (every command has --help with one)",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(show_default=lambda value: None if value is False or value in ((), "") else value),
    suppress_keyboard_interrupt=False,
)
WORDS: dict[str, tuple[Callable[..., object], ...]] = {
    "Start here": (predict.predict, serve.serve, data.check, data.synth, data.data, train.weights, data.doctor),
    "Train and evaluate": (train.train, train.evaluate, train.calibrate, train.pretrain, studies.report, export.export),
    "Your recordings": (predict.segments, predict.embed, predict.search, predict.explain),
    "Studies": (
        *(studies.sweep, studies.reproduce, studies.protocol, studies.cross),
        *(studies.layers, studies.suspect, agreement.agreement, export.bench),
    ),
}


def join_lines(text: str) -> str:
    """Docstring -> the same with a line for each paragraph, since `--help` keeps the line breaks of the source."""
    about, mark, parameters = text.partition("\n\nParameters\n----------\n")
    joined = re.sub(r"(?m)^    .+(?:\n    .+)+", lambda found: "    " + " ".join(found[0].split()), parameters)
    return re.sub(r"(?<=\S)\n(?=\S)", " ", about) + mark + joined


for title, words in WORDS.items():
    group = Group.create_ordered(title)
    for word in words:
        word.__doc__ = join_lines(getdoc(word) or "")
        app.command(word, group=group, sort_key=words.index(word))
app.register_install_completion_command(help="Complete commands and options in this shell (bash, zsh, fish).")
app["--help"].group = app["--install-completion"].group = app["--version"].group = Group.create_ordered("Options")


# And the prediction of a manifest
GO_ON = ("train", "pretrain", "sweep", "reproduce", "protocol", "cross", "layers", "weights")
PICTURES = ("explain", "layers", "protocol", "report", "reproduce")
OF_WORDS = {"export": "export", "suspect": "labels"} | dict.fromkeys(PICTURES, "report,train")  # all that they need
NO_MEMORY = ("out of memory", "can't allocate memory")  # of a GPU, of the processor


def main(words: list[str] | None = None) -> None:
    """Run the command line; errors become a sentence on stderr and an exit code."""
    words = sys.argv[1:] if words is None else words
    # Threads that wait must sleep: where other work runs on the same cores, spinning makes training ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with explain_missing(
            f"rales {' '.join(words[:1])}", *[OF_WORDS[word] for word in words[:1] if word in OF_WORDS]
        ):
            add_named_settings(words)
            name_arguments(words)
            code = run_word(words) or 0
        sys.stdout.flush()  # now, since a reader that has left cannot be caught at the interpreter's end
        sys.exit(code)
    except CycloptsError as error:
        known = [word for word in words[:1] if word in [*app]]
        exit_with_sentence(f"{f'{error}'.strip()} (see {' '.join(['rales', *known])} --help)", 2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends what is left at once, and without a word
        goes_on = any(word in GO_ON for word in words[:1]) or any(word.startswith("--manifest") for word in words)
        exit_with_sentence(
            f"interrupted; the same command {'goes on where it stopped' if goes_on else 'starts anew'}", 130
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (head, less) has left
        sys.exit(0)
    except (ValueError, OSError) as error:
        if os.environ.get("RALES_TRACEBACK"):
            raise
        if isinstance(error, UnicodeEncodeError):  # of a library that takes only such names
            exit_with_sentence(
                f"{error.object}: the name is not UTF-8, which this needs; choose another or rename it", 1
            )
        from rales.errors import UsageError

        exit_with_sentence(str(error), 2 if isinstance(error, UsageError) else 1)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in NO_MEMORY):
            raise
        loop, network = ("pretrain", "encoder") if words[:1] == ["pretrain"] else ("train", "model")
        exit_with_sentence(
            f"out of memory; where the network has it, --set {network}.recompute=true needs less, gives the same "
            f"result, and an unfinished run goes on with it; a smaller --set {loop}.micro_batch or --size is another "
            "run, with another --out",
            1,
        )


def run_word(words: list[str]) -> Any:
    """Words of the command -> its exit code. A recording on standard input, -, would be taken for an option unless it
    stood behind `--`; an unknown option is told before anything is done."""
    how: dict[str, Any] = {"exit_on_error": False, "print_error": False, "result_action": "return_value"}
    try:
        return app(words, **how)
    except UnknownOptionError as error:
        if error.token.value != "-":
            raise
    place = words.index("--") if "--" in words else len(words)
    options = [word for word in words[:place] if word != "-"]
    return app([*options, "--", "-", *words[place + 1 :]], **how)


def add_named_settings(words: list[str]) -> None:
    """Words of the command -> nothing; the settings of the recipe that they name are options from now on, too."""
    extended = {"train": train.add_recipe, "pretrain": train.add_pretraining}
    if words[:1] and words[0] in extended:
        plain = app[words[0]]
        del app[words[0]]
        app.command(extended[words[0]](words[1:]), group=plain.group, sort_key=plain.sort_key)


def name_arguments(words: list[str]) -> None:
    """Words of the command -> nothing; where they ask for help, its usage names the arguments that may be left out, all
    of which are [ARGS] to cyclopts."""
    if not {"--help", "-h"} & {*words[1:]} or words[0].startswith("-") or words[0] not in [*app]:
        return
    from cyclopts.help import format_usage

    word = app[words[0]]
    optional = [
        f"[{argument.name.lstrip('-').upper()}{'...' * (argument.field_info.kind is Kind.VAR_POSITIONAL)}]"
        for argument in word.assemble_argument_collection()
        if argument.field_info.kind in (Kind.POSITIONAL_ONLY, Kind.VAR_POSITIONAL) and not argument.required
    ]
    word.usage = re.sub(r"\[ARGS(\.\.\.)?\]$", " ".join(optional), str(format_usage(app, words[:1])).strip())


def exit_with_sentence(sentence: str, code: int) -> None:
    if progress := sys.modules.get("rales.progress"):  # else no bar was ever shown
        progress.close_bars()
    print_message(f"rales: {sentence}")
    sys.exit(code)

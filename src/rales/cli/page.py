"""The word that serves the web page."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

Served = Annotated[
    str | None,
    Parameter(
        name="--model",
        help="Run folder of `rales train`, its checkpoint file, or an artefact of `rales export`; without it the "
        "package's own model.",
    ),
]


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    model: Served = None,
    runs: Path | None = None,
    folder: Path | None = None,
    token: str | None = None,
    allow_host: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    show: Annotated[bool, Parameter(name="--open", negative="")] = False,
) -> None:
    """The local web page: drop recordings, look, listen, correct the cycles, save them in ICBHI format.

    Not a diagnosis. Nothing leaves this machine. Ctrl-C ends it.

    Example: rales serve --model runs/m2d --runs runs --open

    Parameters
    ----------
    host
        Address to listen on. Any but this machine's own asks visitors for the token that is printed.
    port
        Port to listen on; 0 takes a free one.
    runs
        Folder of run folders: more models to choose from, and their reports.
    folder
        Where sessions are kept; the user's data folder by default.
    token
        Ask every visitor for these characters, also on this machine.
    allow_host
        Name under which visitors reach this machine, where it is not the machine's own; repeatable.
    show
        Open the page in the browser.
    """
    from rales.web import serve as job

    job(host, port, model=model, runs=runs, folder=folder, token=token, allow_hosts=allow_host, show=show)

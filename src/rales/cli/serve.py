"""The command `rales serve`."""

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rales.cli.console import print_message
from rales.cli.options import LocalPathOrNone, read_model_word
from rales.errors import UsageError

Served = Annotated[
    str | None,
    Parameter(
        name="--model",
        converter=read_model_word,
        help="Run folder of `rales train`, its checkpoint file, or an artefact of `rales export`; without it the "
        "package's own model.",
    ),
]

Token = Annotated[
    str | None,
    Parameter(
        env_var="RALES_TOKEN",
        help="The token of your own that visitors need, 16 characters or more; without it one is made at every start. "
        "Everybody on this machine sees command lines: set RALES_TOKEN, or use --token-file, instead.",
    ),
]


def serve(
    project: LocalPathOrNone = None,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    model: Served = None,
    runs: LocalPathOrNone = None,
    folder: LocalPathOrNone = None,
    token: Token = None,
    token_file: LocalPathOrNone = None,
    allow_host: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    show: Annotated[bool, Parameter(name="--open", negative="")] = False,
) -> None:
    """Open the local web page: drop recordings, look, listen, correct the cycles, save them in ICBHI format.

    Not a diagnosis. Nothing leaves this machine. The address that is printed lets its visitor in. Ctrl-C ends it.

    Example: rales serve ICBHI_final_database --open

    Parameters
    ----------
    project
        Folder whose recordings are opened where they are, with the annotations beside them; what is said of them is
        kept in its folder `.rales`. Its own files stay as they are.
    host
        Address to listen on; 0.0.0.0 is for visitors from other machines too.
    port
        Port to listen on; 0 takes a free one.
    runs
        Folder of run folders: more models to choose from, and their reports.
    folder
        Where sessions are kept; the user's data folder by default, or `.rales` in the folder that is opened.
    token_file
        File that holds the token, readable by you alone.
    allow_host
        Name under which visitors reach this machine, where it is not the machine's own; repeatable.
    show
        Open the page in the browser.
    """
    from rales.web import serve_page as job

    token = chosen_token(token, token_file)
    os.umask(0o077)  # whatever this process writes, uploads too, is for its user alone
    try:
        places = {"runs": runs, "folder": folder, "project": project}
        job(host, port, model=model, **places, token=token, allow_hosts=allow_host, show=show)
    except KeyboardInterrupt:  # the service has ended; to take torch apart lasts seconds more, which nothing bounds
        os._exit(130)


def chosen_token(token: str | None, file: Path | None) -> str | None:
    """-> the token that is asked for; from here on the environment, which other processes inherit, has none."""
    inherited = os.environ.pop("RALES_TOKEN", "").strip()
    token = token if token is None else token.strip()
    if file is not None and token:
        raise UsageError("--token-file and a token (--token or RALES_TOKEN) are both given; give one of them")
    if file is not None:
        if os.name == "posix" and file.stat().st_mode & 0o077:
            print_message(f"rales: {file}: others on this machine can read the token; chmod 600 makes it yours alone")
        return file.read_text(encoding="utf-8").strip()
    if token is not None and token != inherited:
        print_message(
            "rales: others on this machine can read the token in the list of processes; set RALES_TOKEN instead"
        )
    return token

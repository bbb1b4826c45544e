"""The local web page: look at a recording, listen to it, judge the model's answer, correct it.

`serve_page` runs the service of `app.py` on this machine; `static/` is the page. Nothing leaves the machine.
"""

import asyncio
import math
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from rales.errors import UsageError
from rales.optional_packages import require_packages
from rales.web import access_token, platform_checks
from rales.web.settings import Settings, data_folder, new_token

if TYPE_CHECKING:
    from rales.web.connection_limits import ConnectionLimits

STATIC = Path(__file__).parent / "static"
STORE = ".rales"  # in a project's folder, what people say of its recordings
SENT_BYTES = 1 << 17  # of an answer that the system keeps before they are read
LOOK_S = 0.5  # between two looks of the server whether it is to end; ten looks a second cost 1 % of some processors
LAST_S = 9.0  # that the service may take to end after the first signal; nothing that it has confirmed is lost then


def serve_page(
    host: str,
    port: int,
    *,
    model: str | None = None,
    runs: Path | None = None,
    folder: Path | None = None,
    project: Path | None = None,
    token: str | None = None,
    allow_hosts: tuple[str, ...] = (),
    show: bool = False,
) -> None:
    """Serve the page until interrupted.

    `model` is a run folder or an artefact of `rales export`, None for the package's own; `runs` a folder of run folders
    to browse, `project` a folder whose recordings are opened in place. Every visitor needs the token, which is made
    here if none is given.
    Errors: a package missing, a port that is taken, a model that cannot be loaded, a folder that is not there.
    """
    require_packages("the web page", "web", "fastapi", "uvicorn", "python_multipart", "limits")
    if why := platform_checks.find_missing_features():
        raise ValueError(why)
    if project is not None and not project.is_dir():
        raise UsageError(f"{project}: no such folder; give one that holds recordings")
    if project is not None and folder is not None:
        check_apart(folder, project)
    if project is not None and folder is None and (project / STORE).is_symlink():
        raise UsageError(
            f"{project / STORE}: a link, which may lead anywhere; remove it, or choose a --folder of yours"
        )
    if token is not None and len(token) < access_token.SHORTEST:
        raise UsageError(f"the token has {len(token)} characters, expected {access_token.SHORTEST} or more")
    settings = Settings(
        host=host,
        folder=data_folder(folder if folder or not project else project / STORE),
        project=project.absolute() if project else None,
        model=model,
        runs=runs.absolute() if runs else None,
        token=token or new_token(),
        allow_hosts=allow_hosts,
    )
    run_server(settings, bind_socket(host, port), made=token is None, show=show)


def check_apart(folder: Path, project: Path) -> None:
    """Refuse a folder of the service in which it would take a project's files for its own. Errors: UsageError."""
    ours, theirs = folder.resolve(), project.resolve()
    hidden = ours.is_relative_to(theirs) and any(part[0] == "." for part in ours.relative_to(theirs).parts)
    if theirs.is_relative_to(ours) or (ours.is_relative_to(theirs) and not hidden):
        raise UsageError(f"--folder {folder}: shares its files with the project {project}; choose one outside of it")


def run_server(settings: Settings, listener: socket.socket, *, made: bool, show: bool) -> None:
    """Serve until a signal comes. `made`: whether nobody knows the token yet."""
    from rales.web import open_browser

    port = listener.getsockname()[1]
    link: list[open_browser.BrowserLink | None] = []

    def begun() -> None:
        if show:
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
            link.append(open_browser.show_page(running.middleware.access, page_address(host, port)))

    def ended() -> None:
        for each in filter(None, link):
            each.remove()

    running = make_server(settings, begun, ended)
    seen = not is_kept(sys.stderr)
    print(f"rales: {page_address(settings.host, port, settings.token if seen else '')}", file=sys.stderr)
    if made and not seen:
        print("rales: no token is written to a log; give one with RALES_TOKEN or --token-file", file=sys.stderr)
    print("rales: a research tool, not a diagnosis; Ctrl-C ends it", file=sys.stderr, flush=True)
    running.run(sockets=[listener])


def is_kept(stream: TextIO) -> bool:
    """Whether what is written to a stream stays there for others to read: in a file or the system's journal."""
    try:
        stream_stat = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file of the system, as in a notebook
        return False
    # Programs that a terminal starts inherit the variable, so it says nothing of this stream unless it names it.
    return (
        stat.S_ISREG(stream_stat.st_mode)
        or os.environ.get("JOURNAL_STREAM") == f"{stream_stat.st_dev}:{stream_stat.st_ino}"
    )


def make_server(
    settings: Settings, begun: Callable[[], None] = lambda: None, ended: Callable[[], None] = lambda: None
) -> Any:
    """-> a uvicorn server of the service, not yet running; `begun` is called when it answers, `ended` when it ends."""
    import uvicorn

    from rales.web.app import create_app
    from rales.web.connection_limits import ConnectionLimits, quieten_logs

    places = ConnectionLimits(settings.limits)

    class Server(uvicorn.Server):
        """Ends soon after the first signal, whatever visitors and models do, and at once after the second."""

        middleware = create_app(settings)
        last: threading.Timer | None = None

        def run(self, sockets: list[socket.socket] | None = None) -> None:
            try:
                super().run(sockets)
            finally:
                if self.last is not None:
                    self.last.cancel()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            begun()

        async def main_loop(self) -> None:
            while not await self.on_tick(0):  # 0: the date of its answers is that of now
                await asyncio.sleep(LOOK_S)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            ended()
            self.middleware.end_streams()
            asyncio.get_running_loop().call_later(settings.limits.ending_s, places.end)
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if self.should_exit:
                leave(sig)
            super().handle_exit(sig, frame)
            self.last = threading.Timer(LAST_S, leave, [sig])
            self.last.daemon = True
            self.last.start()

    def leave(sig: int) -> None:
        ended()
        os._exit(128 + sig)  # as safe as a power cut: the decoder ends with its input, all else is written whole

    quieten_logs()
    return Server(make_server_config(Server.middleware, places, settings))


def make_server_config(app: Any, places: "ConnectionLimits", settings: Settings) -> Any:
    """Application and the limits of its connections -> uvicorn's configuration.

    Without proxy headers nobody can claim another address than their own. No log holds an address with a token.
    """
    import uvicorn

    from rales.web.connection_limits import BACKLOG, make_protocol_class

    return uvicorn.Config(
        app,
        http=make_protocol_class(places),
        ws="none",
        loop="asyncio",
        backlog=BACKLOG,
        callback_notify=places.sweep,
        timeout_notify=1,
        timeout_graceful_shutdown=math.ceil(2 * settings.limits.ending_s),
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )


def bind_socket(host: str, port: int) -> socket.socket:
    """-> a bound socket; a port that is taken or a host that is not this machine's is a sentence."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Unset, the system holds megabytes for a reader, in which one that is slow cannot be told from one that stalls.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_BYTES)
        listener.bind(place)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot listen on {host} port {port} ({reason}); choose another --host or --port") from error
    return listener


def page_address(host: str, port: int, token: str = "") -> str:
    """-> the address to open in a browser, with the token that lets one in."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")

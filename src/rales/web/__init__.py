"""The local web page: look at a recording, listen to it, judge the model's answer, correct it.

`serve` runs the service of `app.py` on this machine; `static/` is the page. Nothing leaves the machine.
"""

import json
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rales.config import UsageError
from rales.extras import require_packages
from rales.web.settings import Settings, data_folder, is_loopback

STATIC = Path(__file__).parent / "static"


def serve(
    host: str,
    port: int,
    *,
    model: str | None = None,
    runs: Path | None = None,
    folder: Path | None = None,
    token: str | None = None,
    allow_hosts: tuple[str, ...] = (),
    show: bool = False,
) -> None:
    """Serve the page until interrupted.

    `model` is a run folder or an artefact of `rales export`, None for the package's own; `runs` a folder of run folders
    to browse. Anything but this machine's own address asks every visitor for a token, made here if none is given.
    Errors: a package or the page's scripts missing, a port that is taken, a model that cannot be loaded.
    """
    require_packages("the web page", "web", "fastapi", "uvicorn", "python_multipart")
    if not hasattr(os, "fork"):
        raise ValueError(
            "the web page decodes recordings in forked processes, which this system lacks; use Linux, macOS or WSL"
        )
    from rales.web.sandbox import limits_memory

    if not limits_memory():
        print(
            "rales: this system does not limit the memory of a process: a recording that is made to fill it is ended "
            "a moment later than on Linux, so take recordings only from people you know",
            file=sys.stderr,
        )
    if not (STATIC / "vendor" / "wavesurfer.esm.js").is_file():
        raise ValueError(f"{STATIC / 'vendor'}: the page's player is not there; `make setup` fetches it")
    if token is not None and len(token) < 8:
        raise UsageError(f"--token has {len(token)} characters, expected 8 or more")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    settings = Settings(
        host=host,
        folder=data_folder(folder),
        model=model,
        runs=runs.absolute() if runs else None,
        token=token,
        allow_hosts=allow_hosts,
    )
    listener = listening(host, port)
    run(settings, listener, address(host, listener.getsockname()[1], token), show=show)


def run(settings: Settings, listener: socket.socket, url: str, *, show: bool) -> None:
    ready = server(settings)
    print(f"rales: {url}\nrales: a research tool, not a diagnosis; Ctrl-C ends it", file=sys.stderr, flush=True)
    if show:
        import webbrowser

        webbrowser.open(url)
    ready.run(sockets=[listener])


def server(settings: Settings) -> Any:
    """-> a uvicorn server of the service, not yet running."""
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    from rales.web.app import create_app

    class Spoken(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
        """What is no HTTP never reaches the service; the server's own answer to it is plain text."""

        def send_400_response(self, _: str) -> None:
            body = json.dumps({"detail": "the request is not valid HTTP; check its first line, headers and lengths"})
            head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
            self.transport.write(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n\r\n{body}".encode())
            self.transport.close()

    # Without proxy headers nobody can claim another address than their own. The guard limits how many ask at once, in
    # words; the server's own limit answers in plain text.
    config = uvicorn.Config(
        create_app(settings), log_level="warning", server_header=False, proxy_headers=False, http=Spoken
    )
    return uvicorn.Server(config)


def listening(host: str, port: int) -> socket.socket:
    """-> a bound socket; a port that is taken or a host that is not this machine's is a sentence."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot listen on {host} port {port} ({reason}); choose another --host or --port") from error
    return listener


def address(host: str, port: int, token: str | None) -> str:
    """-> the address to open in a browser, with the token that lets one in."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname(), "::1": "[::1]"}.get(host, host)
    return f"http://{name}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")

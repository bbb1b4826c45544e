"""A proxy on this machine that refuses everything and keeps what it was asked for, and a home folder to look into."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .conftest import REPOSITORY

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
# What makes a library keep silent anyway, so that a test would pass whatever Rales does
SILENCERS = ("CI", "TF_BUILD", "JENKINS_URL", "DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")
OURS = (".cache/rales/", ".local/share/rales/")
# Kept for the next start, with nothing in it that would tell one machine from another in the maker's eyes: fonts that
# were found, and the secret that a Ray started here asks of who wants to use it
HARMLESS = (".cache/matplotlib/", ".config/matplotlib/", ".ray/auth_token", ".cache/fontconfig/")


class Recorder:
    """`environment` for a program in `home`; `asked` are the first lines of what came to the proxy."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self.asked = home, list[str]()
        proxy = f"http://127.0.0.1:{port}"
        # RALES_CACHE too: what Rales keeps by itself belongs under `home`, and is looked at as the rest
        silent = (*SILENCERS, "HF_HUB_DISABLE_TELEMETRY", "RALES_CACHE", "no_proxy", "NO_PROXY", "XDG_CACHE_HOME")
        kept = {name: value for name, value in os.environ.items() if name not in silent}
        proxies = {name: proxy for word in PROXIES for name in (word, word.upper())}
        paths = [str(REPOSITORY / "src"), kept.get("PYTHONPATH", "")]
        self.environment = {**kept, **proxies, "HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(self, *words: object, cwd: Path | None = None, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Words for Python in this environment -> how it ended."""
        asked = [sys.executable, *map(str, words)]
        return subprocess.run(asked, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)

    def left(self) -> list[str]:
        """-> files in the home folder that are neither ours nor harmless."""
        files = sorted(path.relative_to(self.home).as_posix() for path in self.home.rglob("*") if not path.is_dir())
        return [file for file in files if not file.startswith((*OURS, *HARMLESS))]


@contextmanager
def recording(home: Path) -> Iterator[Recorder]:
    """Folder -> a Recorder whose programs have it as their home, and whose proxy answers until the end."""
    home.mkdir(parents=True, exist_ok=True)

    class Refusing(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            recorder.asked.append(self.requestline)
            self.send_error(502)

        do_CONNECT = do_GET = do_POST = do_PUT = do_HEAD = refuse

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        recorder = Recorder(home, server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield recorder
        finally:
            server.shutdown()

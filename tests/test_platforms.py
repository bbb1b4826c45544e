"""Systems that lack what the page's decoders stand on: it says so, and does the next best."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rales import web
from rales.web import sandbox

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the page needs fork")

FILLING = """
import pathlib
from rales.web import sandbox
sandbox.STATM = pathlib.Path("/no/such/file")
def fill(*_):
    held = []
    while True:
        held.append(b"x" * 2**20 + bytes([len(held) % 256]))
sandbox.decode = fill
sandbox.child({"id": "7", "path": "a", "out": "b", "duration_s": 1, "decode_s": 120, "decode_bytes": 64 * 2**20}, 1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the page needs fork")
def test_where_memory_cannot_be_limited_a_decoder_that_fills_it_is_ended() -> None:
    ended = subprocess.run([sys.executable, "-c", FILLING], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    expected = {"id": "7", "error": "needs more than 64 MiB of memory to decode", "large": True}
    assert json.loads(ended.stdout) == expected


def test_the_page_says_what_this_system_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []
    (tmp_path / "static" / "vendor").mkdir(parents=True)
    (tmp_path / "static" / "vendor" / "wavesurfer.esm.js").write_text("")
    monkeypatch.setattr(web, "STATIC", tmp_path / "static")
    monkeypatch.setattr(web, "run", lambda *words, **_: started.append(words))
    told = "this system does not limit the memory of a process"
    web.serve("127.0.0.1", 0, folder=tmp_path / "page")
    assert told not in capsys.readouterr().err or sys.platform != "linux"
    monkeypatch.setattr(sandbox, "STATM", tmp_path / "missing")
    web.serve("127.0.0.1", 0, folder=tmp_path / "page")
    assert told in capsys.readouterr().err
    assert len(started) == 2
    monkeypatch.delattr(os, "fork")
    with pytest.raises(ValueError, match="forked processes, which this system lacks; use Linux, macOS or WSL"):
        web.serve("127.0.0.1", 0, folder=tmp_path / "page")

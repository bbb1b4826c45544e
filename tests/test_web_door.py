"""Who gets in, and where the token can be seen: nowhere but in the terminal of whoever started the service."""

import html
import io
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from rales.cli.serve import chosen_token
from rales.errors import UsageError
from rales.web import access_token as module
from rales.web import is_kept, page_address, serve_page
from rales.web import open_browser as shown
from rales.web.access_token import AccessControl
from rales.web.settings import Limits
from tests.attack.slow_clients import KNOWN, TOKEN, Command, command, get, sockets
from tests.served import GENEROUS, door, new_session, recording, served, token, until, upload

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def visitor(client: httpx.Client) -> Iterator[httpx.Client]:
    """Somebody without the token."""
    with httpx.Client(base_url=client.base_url, timeout=20) as visitor:
        yield visitor


def test_without_the_token(client: httpx.Client, visitor: httpx.Client) -> None:
    """Also on this machine; a program is told in JSON, a browser on a page. /health alone is open."""
    assert visitor.get("/health").status_code == 200
    session = new_session(client)
    for method, path in (
        ("GET", "/"),
        ("GET", "/sessions"),
        ("GET", "/openapi.json"),
        ("DELETE", f"/sessions/{session}"),
    ):
        answer = visitor.request(method, path)
        assert (answer.status_code, "asks for its token" in answer.json()["detail"]) == (401, True)
        page = visitor.request(method, path, headers=BROWSER)
        assert (page.status_code, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert "open the address that `rales serve` printed" in html.unescape(page.text)
    assert client.get(f"/sessions/{session}").status_code == 200
    foreign = visitor.get("/", headers={**BROWSER, "host": "<b>evil"})
    assert (foreign.status_code, "&lt;b&gt;evil" in foreign.text, "<b>" in foreign.text) == (421, True, False)


def test_the_cookie(client: httpx.Client, visitor: httpx.Client) -> None:
    """It tells nothing of the token, is of this port alone, and ends."""
    answer = visitor.get(door(client))
    (name,) = visitor.cookies
    value = visitor.cookies[name]
    assert name == f"rales-{client.base_url.port}"
    assert token(client) not in answer.headers["set-cookie"]
    assert re.search(r"; Path=/; HttpOnly; SameSite=Strict$", answer.headers["set-cookie"])
    assert "max-age" not in answer.headers["set-cookie"].lower()  # it goes with the browser
    assert visitor.get("/sessions").status_code == 200
    assert visitor.get("/?token=wrong").headers["refresh"] == "0; url=/"  # who is in stays in
    neighbours = f'theirs={{"a": [1, 2]}}; rales-1=x; {name}={value}; "'
    assert httpx.get(client.base_url.join("/sessions"), headers={"cookie": neighbours}).status_code == 200
    expires, _, signature = value.partition(".")
    wrongs = f"{int(expires) + 1}.{signature}", f"{expires}.{signature[:-1]}", f"{expires}.", ".", "ä.ä", token(client)
    for wrong in wrongs:
        headers = {b"cookie": f"{name}={wrong}".encode()}
        assert httpx.get(client.base_url.join("/sessions"), headers=headers).status_code == 401
    secure = visitor.get(door(client), headers={"x-forwarded-proto": "https"})
    assert secure.headers["set-cookie"].endswith("; SameSite=Strict; Secure")


def test_a_cookie_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = AccessControl(TOKEN, Limits()), AccessControl(TOKEN, Limits())
    value = one.cookie("a", secure=False).partition(";")[0].partition("=")[2]
    assert one.is_cookie(value)
    assert not other.is_cookie(value)  # of a service that ended
    later = time.time() + module.COOKIE_S + 1
    monkeypatch.setattr("time.time", lambda: later)
    assert not one.is_cookie(value)


def test_a_ticket_is_good_once_and_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    one = AccessControl(TOKEN, Limits())
    ticket, late = one.ticket(), one.ticket()
    assert [one.takes(ticket), one.takes(ticket), one.takes(""), one.takes(TOKEN)] == [True, False, False, False]
    later = time.monotonic() + module.TICKET_S + 1
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert not one.takes(late)


def test_guesses_are_few_and_lock_nobody_out(place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    few = replace(GENEROUS, guesses=3, guesses_of_all=100)
    with served(place, folder=tmp_path, limits=few) as client, httpx.Client(base_url=client.base_url) as browser:
        browser.get(door(client))

        def guess(number: int) -> httpx.Response:
            if number % 2:
                return httpx.get(client.base_url.join(f"/?token=guess{number}"))
            return httpx.get(client.base_url.join("/sessions"), headers={"authorization": f"Bearer guess{number}"})

        answers = [guess(number) for number in range(8)]
        assert [answer.status_code for answer in answers] == [401] * 3 + [429] * 5
        assert "too many wrong tokens" in answers[-1].json()["detail"]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
        assert client.get("/sessions").status_code == browser.get("/sessions").status_code == 200
        assert httpx.get(door(client)).status_code == 200
        assert httpx.get(client.base_url.join("/sessions")).status_code == 401  # no guess
        assert caplog.text.count("somebody guesses the token") == 1


def test_guesses_of_many_addresses_are_few_in_all() -> None:
    one = AccessControl(TOKEN, Limits(guesses=3, guesses_of_all=10))
    waits = [one.guessed(f"10.0.0.{number}") for number in range(12)]
    assert [wait > 0 for wait in waits] == [False] * 10 + [True] * 2
    crowd = AccessControl(TOKEN, Limits(guesses=3, guesses_of_all=10))
    assert sum(crowd.guessed("10.0.0.1") == 0 for _ in range(50)) == 3
    assert crowd.guessed("10.0.0.2") == 0  # one address does not use up what is left to all others


def test_the_page_after_a_click_elsewhere(client: httpx.Client, browser: Browser, tmp_path: Path) -> None:
    """A strict cookie is not sent where another page leads, which a file is too; the page opens all the same."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(str(client.base_url))
    expect(page.locator("p")).to_contain_text("open the address that `rales serve` printed")
    (tmp_path / "link.html").write_text(f'<meta http-equiv="refresh" content="0; url={html.escape(door(client))}">')
    page.goto((tmp_path / "link.html").as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert page.url == f"{client.base_url}/"
    context.close()


# The command


def test_the_token_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    assert chosen_token(None, file) == TOKEN
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    assert chosen_token(None, file) == TOKEN
    assert "others on this machine can read the token; chmod 600" in capsys.readouterr().err
    monkeypatch.setenv("RALES_TOKEN", TOKEN)
    assert chosen_token(TOKEN, None) == TOKEN
    assert (capsys.readouterr().err, os.environ.get("RALES_TOKEN")) == ("", None)
    assert chosen_token(TOKEN, None) == TOKEN
    assert "can read the token in the list of processes; set RALES_TOKEN" in capsys.readouterr().err
    monkeypatch.setenv("RALES_TOKEN", f"{TOKEN}\n")
    assert chosen_token(f"{TOKEN}\n", None) == TOKEN
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match="are both given"):
        chosen_token(TOKEN, file)
    with pytest.raises(UsageError, match="the token has 15 characters, expected 16 or more"):
        serve_page("127.0.0.1", 0, folder=tmp_path, token="a" * 15)


def test_where_an_address_with_a_token_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    reader, end = os.pipe()
    with os.fdopen(reader), os.fdopen(end, "w") as writer, (tmp_path / "log").open("w") as log:
        assert [is_kept(log), is_kept(writer), is_kept(io.StringIO())] == [True, False, False]
        monkeypatch.setenv("JOURNAL_STREAM", "8:1")  # inherited, and of another stream
        assert not is_kept(writer)
        found = os.fstat(end)
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert is_kept(writer)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("fe80::1", "http://[fe80::1]:80/"), ("::1", "http://[::1]:80/"), ("ward.example", "http://ward.example:80/")],
)
def test_the_address_of_a_host(host: str, expected: str) -> None:
    assert page_address(host, 80) == expected


OPENED = """#!/bin/sh
env > "$HOME/environment"; stat -c %a "${1#file://}" > "$HOME/mode"; cp "${1#file://}" "$HOME/copy"
echo "$@" > "$HOME/told"
"""


@pytest.fixture(scope="module")
def running(place: Path) -> Iterator[Command]:
    """The command with `--open`, a browser that keeps what it is told, and a folder that others may enter."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "browser").write_text(OPENED)
        (folder / "browser").chmod(0o755)
        words = {"HOME": name, "BROWSER": str(folder / "browser"), "TMPDIR": name}
        with command(folder, place / "runs" / "first", "--open", **words) as running:
            yield running


def test_the_browser_is_told_no_token(running: Command) -> None:
    """Its command line names a file of the user alone, whose link lets one visitor in; then the file is gone."""
    home = running.log.parent
    until((home / "told").exists)
    told = (home / "told").read_text().strip()
    assert re.fullmatch(re.escape(home.as_uri()) + r"/rales-opens-[0-9a-f]{8}\.html", told)
    assert (home / "mode").read_text() == "600\n"
    assert TOKEN not in (home / "environment").read_text()
    url = html.unescape(re.search(r'url=([^"]*)"', (home / "copy").read_text())[1])  # type: ignore[index]
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert any(b"serve" in each for each in commands)
    assert not any(TOKEN.encode() in each or url[-20:].encode() in each for each in commands)
    with httpx.Client(timeout=20) as browser:
        assert (browser.get(url).status_code, browser.get(f"http://127.0.0.1:{running.port}/sessions").status_code) == (
            200,
            200,
        )
    again = httpx.get(url, headers=BROWSER)
    assert (again.status_code, "let somebody in already" in again.text) == (401, True)
    until(lambda: not list(home.glob("rales-opens-*")))
    assert TOKEN not in running.log.read_text()
    assert f"rales: http://127.0.0.1:{running.port}/\n" in running.log.read_text()


def test_a_browser_that_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file goes, its link is void, what a killed service has left goes too, and the user is told what to do."""
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    (tmp_path / "rales-opens-0000.html").write_text("left")
    os.utime(tmp_path / "rales-opens-0000.html", (0, 0))
    (tmp_path / "rales-opens-0001.html").write_text("of another service that begins")
    one = AccessControl(TOKEN, Limits())
    link = shown.BrowserLink(one, "http://127.0.0.1:1/")
    assert one.tickets
    shown.watch_link(link)
    assert not one.tickets
    assert [path.name for path in tmp_path.iterdir()] == ["rales-opens-0001.html"]
    assert "the browser could not be opened (it has not come); open the address yourself" in capsys.readouterr().err
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "missing")
    assert shown.show_page(one, "http://127.0.0.1:1/") is None
    assert "No such file" in capsys.readouterr().err


AS_NOBODY = """
import encodings.idna, json, os, sys, urllib.error, urllib.request
os.setgroups([]); os.setgid(65534); os.setuid(65534)
base, recording, *places = sys.argv[1:]
def status(path, method="GET"):
    try:
        return urllib.request.urlopen(urllib.request.Request(base + path, method=method)).status
    except urllib.error.HTTPError as error:
        return error.code
read = []
for place in places:
    for folder, _, files in os.walk(place):
        read += [os.path.join(folder, name) for name in files if os.access(os.path.join(folder, name), os.R_OK)]
asked = [status("/sessions"), status(f"/recordings/{recording}/audio"), status(f"/recordings/{recording}", "DELETE")]
print(json.dumps({"uid": os.getuid(), "asked": asked, "health": status("/health"), "read": read}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine(running: Command, place: Path) -> None:
    """Lists, hears, deletes and reads nothing, while an upload lies in TMPDIR too."""
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", headers=KNOWN, timeout=60) as client:
        facts = upload(client, new_session(client), recording(place))
        half = get("/predict").replace(b"GET", b"POST")[:-2]
        half += b"Content-Length: 9000000\r\nContent-Type: multipart/form-data; boundary=y\r\n\r\n--y\r\n"
        half += b'Content-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\n' + bytes(4_000_000)
        home = running.log.parent
        (home / "told").write_text("what anybody may read, whatever this machine's umask is")
        (home / "told").chmod(0o644)
        address = f"http://127.0.0.1:{running.port}"
        words = [address, facts["id"], str(home), f"/proc/{running.process.pid}"]
        with sockets(running.port, 1, half):
            found = subprocess.run(
                [sys.executable, "-c", AS_NOBODY, *words], capture_output=True, text=True, timeout=60, check=True
            )
        seen = json.loads(found.stdout)
        assert (seen["uid"], seen["asked"], seen["health"]) == (65534, [401, 401, 401], 200)
        ours = {Path(path).name for path in seen["read"] if path.startswith(str(home))}
        assert {"told"} <= ours <= {"browser", "log", "environment", "mode", "told"}  # of this test
        secret = [path for path in seen["read"] if path.endswith(("environ", "/mem"))]
        assert secret == []
        assert client.get(f"/recordings/{facts['id']}").status_code == 200
    written = list((home / "store").rglob("*"))
    assert len(written) > 4
    assert not [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077]

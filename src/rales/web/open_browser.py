"""Open the page in the user's browser without showing the token to others.

Command lines stand in the process list for everybody on the machine, so the browser is given no address with a token
but a file that only the user can read, and that holds a link which is good for one visitor and one minute.
"""

import contextlib
import html
import os
import secrets
import sys
import threading
import time
import webbrowser
from pathlib import Path

from rales.web.access_token import TICKET_S, AccessControl

NAME = "rales-opens-{}.html"
PAGE = """<!doctype html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}"><title>Rales</title><a href="{url}">Rales</a>
"""


class BrowserLink:
    """A file that leads one browser to the page; it is removed when that was used, expires, or the service ends."""

    def __init__(self, access: AccessControl, url: str) -> None:
        self.access, self.ticket = access, access.ticket()
        # Browsers in a sandbox (snap, flatpak) read neither hidden folders, as the data folder is, nor /tmp.
        remove_old_links(Path.home())
        self.file = Path.home() / NAME.format(secrets.token_hex(4))
        page = PAGE.format(url=html.escape(f"{url}?once={self.ticket}"))
        with os.fdopen(os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(page)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.file.unlink()


def show_page(access: AccessControl, url: str) -> BrowserLink | None:
    """Address without a token -> what the browser has been told to open, None if it could not be told."""
    try:
        link = BrowserLink(access, url)
    except (OSError, RuntimeError) as error:
        unopened_note(error)
        return None
    threading.Thread(target=watch_link, args=(link,), name="rales-browser", daemon=True).start()
    return link


def watch_link(link: BrowserLink) -> None:
    """Hand a link to the browser and remove it again."""
    was_opened = webbrowser.open(link.file.as_uri())
    end = time.monotonic() + TICKET_S
    while was_opened and link.ticket in link.access.tickets and time.monotonic() < end:
        time.sleep(0.2)
    link.remove()
    if link.access.tickets.pop(link.ticket, None) is not None:
        unopened_note("it has not come")


def unopened_note(why: object) -> None:
    print(f"rales: the browser could not be opened ({why}); open the address yourself", file=sys.stderr, flush=True)


def remove_old_links(folder: Path) -> None:
    """Remove what services that were killed have left."""
    for file in folder.glob(NAME.format("*")):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > TICKET_S:
                file.unlink()

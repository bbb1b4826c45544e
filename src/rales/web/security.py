"""The middleware that checks every request, and the headers of every response.

The order: a Host name that is this service's (a page elsewhere could point its own name here: DNS rebinding), the token
or its cookie (`access_token.py`), an Origin that is this page's for whatever changes something (CSRF) or costs much to
answer, then size and rate.
"""

import asyncio
import html
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from rales.web.access_token import AccessControl, RateLimit, parse_cookies
from rales.web.settings import MIB, Settings, is_loopback, visitor_key

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_TO_ALL = ("/health",)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
COSTLY = (
    "/explanation",
    "/spectrogram",
    "/export",
    "/report",
    "/agreement",
    "/answers",
    "/learning",
)  # ends of what is computed anew for every look
CHEAP = "/learning"  # how far the job is, which the page asks every second
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SAID = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rales</title>
<link rel="icon" href="data:,">
<style nonce="{nonce}">
:root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif; }
main { max-width: 34rem; margin: 15vh auto; padding: 0 1rem; }
</style>
</head>
<body><main><h1><a href="/">Rales</a></h1><p>{sentence}</p></main></body>
</html>
"""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(self), geolocation=()",
    "cache-control": "no-store",
}


class ApiError(Exception):
    """A request that goes no further: its status, a sentence, and headers."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class SecurityMiddleware:
    """ASGI middleware around `app`; `nonce` is of this service's inline styles, `end_streams` ends the answers that
    would go on for as long as the service does."""

    def __init__(self, app: App, settings: Settings, nonce: str, end_streams: Callable[[], None]) -> None:
        self.app, self.settings, self.nonce, self.end_streams = app, settings, nonce, end_streams
        self.headers = {**HEADERS, "content-security-policy": POLICY.format(nonce=nonce)}
        names = () if is_loopback(settings.host) else (settings.host, socket.gethostname(), socket.getfqdn())
        self.names = {name.lower() for name in (*names, *settings.allow_hosts)}
        limits = settings.limits
        self.access = AccessControl(settings.token, limits)
        self.window_s = max(1, round(limits.burst / limits.per_second))
        self.rate = RateLimit(limits.burst, self.window_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        page = SAID.replace("{nonce}", self.nonce) if "text/html" in headers.get("accept", "") else ""
        answer = SecuredSend(send, self.headers, page, fresh=scope["path"].startswith("/static/"))
        try:
            self.check(scope, headers)
            receive = self.counted(scope, receive, answer)
            await self.app(scope, receive, answer)
        except ApiError as refusal:
            await answer.refuse(refusal)
        except asyncio.CancelledError:  # the service ends, and this took too long
            await answer.refuse(ApiError(503, "the service ends; start it again", connection="close"))
        return None

    def check(self, scope: Scope, headers: dict[str, str]) -> None:
        """Everything that can be said before the body. Errors: ApiError."""
        host = headers.get("host", "")
        if not self.is_ours(host):
            raise ApiError(
                421,
                f"this service is not called {host[:80]!r}; use the address that `rales serve` printed",
            )
        if scope["path"] not in OPEN_TO_ALL:
            self.check_token(scope, headers)
        changes = scope["method"] not in SAFE_METHODS
        if changes or (scope["path"].endswith(COSTLY) and scope["path"] != CHEAP):
            check_origin(headers, host)
            self.check_rate(scope, changes=changes)
        if changes:
            self.check_size(scope, headers)

    def is_ours(self, host: str) -> bool:
        """Host header -> whether it names this service. An IP address cannot be rebound, a name can."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
            _ = urlsplit(f"//{host}").port  # which must be a number too
        except ValueError:
            return False
        if is_loopback(name) or name in self.names:
            return True
        if is_loopback(self.settings.host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def check_token(self, scope: Scope, headers: dict[str, str]) -> None:
        """The cookie, or the token as a bearer; or either of the two in the address, which makes it a cookie."""
        name = f"rales-{urlsplit('//' + headers['host']).port or 'page'}"  # another service here has another port
        known = self.access.is_cookie(parse_cookies(headers.get("cookie", "")).get(name, ""))
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        bearer = bearer.strip() if scheme.lower() == "bearer" else ""
        known = known or self.access.is_token(bearer)

        enters = scope["method"] == "GET" and scope["path"] == "/"
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True) if enters else []
        token, once = (dict(query).get(key, "") for key in ("token", "once"))
        if known and not (token or once):
            return

        if self.access.takes(once) or self.access.is_token(token) or known:
            rest = urlencode([(key, value) for key, value in query if key not in ("token", "once")])
            raise ApiError(
                # No redirect: after a click elsewhere, a browser would follow it without the strict cookie.
                200,
                "You are let in; the page opens.",
                refresh="0; url=/" + (f"?{rest}" if rest else ""),
                set_cookie=self.access.cookie(name, secure=headers.get("x-forwarded-proto") == "https"),
            )

        if (bearer or token or once) and (wait_s := self.access.guessed(visitor_key(scope.get("client")))):
            raise ApiError(
                429,
                f"too many wrong tokens; try again in {wait_s} s, or at once with the right one",
                retry_after=str(wait_s),
                connection="close",
            )
        raise ApiError(
            401,
            ("this link has let somebody in already, or is older than a minute; " if once else "")
            + "this service asks for its token: open the address that `rales serve` printed (or, with a token of your "
            "own, add /?token= and the token to the address), or send the header `Authorization: Bearer TOKEN`",
            www_authenticate="Bearer",
        )

    def check_rate(self, scope: Scope, *, changes: bool) -> None:
        """So many requests that change something for each visitor's address; as many costly looks and as many pieces of
        live sound, which are counted apart so that neither keeps one from saving."""
        kind = "sound" if scope["path"].endswith("/sound") else "changes" if changes else "looks"
        if wait_s := self.rate.wait_s(visitor_key(scope.get("client")), kind):
            raise ApiError(
                429,
                f"more than {self.rate.many} such requests in {self.window_s} s; try again in {wait_s} s",
                retry_after=str(wait_s),
            )

    def most_bytes(self, scope: Scope) -> int:
        uploads = scope["path"] == "/predict" or scope["path"].endswith("/recordings")
        return self.settings.limits.upload_bytes if uploads else self.settings.limits.body_bytes

    def check_size(self, scope: Scope, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self.most_bytes(scope):
            raise too_large(self.most_bytes(scope))

    def counted(self, scope: Scope, receive: Receive, answer: "SecuredSend") -> Receive:
        """-> `receive` that refuses a body which grows too long, whatever its header promised, or stands still."""
        most, seen, complete = self.most_bytes(scope), 0, False

        async def receiving() -> Message:
            nonlocal seen, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.settings.limits.pause_s)
            except TimeoutError:
                answer.refusal = ApiError(408, "the upload stood still; send it again", connection="close")
                raise answer.refusal from None
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > most:
                answer.refusal = too_large(most)
                raise answer.refusal
            return message

        return receiving


class SecuredSend:
    """`send` that adds the headers. A refusal in the middle of a body takes the place of whatever the service, which
    knows nothing of it, makes of the broken body. `page` is what a browser shows of it, "" for programs."""

    def __init__(self, send: Send, headers: dict[str, str], page: str, *, fresh: bool) -> None:
        self.send, self.headers, self.page = send, headers, page
        self.begun = self.ended = False
        self.refusal: ApiError | None = None
        if fresh:
            self.headers = {**headers, "cache-control": "no-cache"}

    async def __call__(self, message: Message) -> None:
        if self.refusal is not None and not self.begun:
            return await self.refuse(self.refusal)
        if self.ended:
            return None
        if message["type"] == "http.response.start":
            self.begun = True
            given = {name.lower() for name, _ in message.get("headers", [])}
            more = [(k.encode(), v.encode()) for k, v in self.headers.items() if k.encode() not in given]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        return await self.send(message)

    async def refuse(self, refusal: ApiError) -> None:
        if self.begun:
            return
        self.refusal = None
        if self.page:
            kind, text = "text/html; charset=utf-8", self.page.replace("{sentence}", html.escape(refusal.sentence))
        else:
            kind, text = "application/json", json.dumps({"detail": refusal.sentence})
        body = text.encode()
        headers = {"content-type": kind, "content-length": str(len(body)), "vary": "accept", **refusal.headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})
        self.ended = True


def check_origin(headers: dict[str, str], host: str) -> None:
    """A browser says where a request comes from; programs say nothing, and no page can make them ask."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
    if foreign or site not in ("same-origin", "none"):
        raise ApiError(403, "the request comes from another page; only this service's own page may ask for this")


def too_large(most: int) -> ApiError:
    return ApiError(413, f"larger than the {most / MIB:.3g} MiB that are taken; send less at once", connection="close")

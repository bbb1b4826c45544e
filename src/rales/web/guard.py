"""What every request must pass before the service sees it, and the headers that every answer carries.

The order: a Host name that is this service's (a page elsewhere could point its own name here: DNS rebinding), the token
where one is asked for, an Origin that is this page's for whatever changes something (CSRF) or costs much to answer,
then size and rate.
"""

import asyncio
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from rales.web.settings import MIB, Settings, is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "rales_token"
OPEN_TO_ALL = ("/health",)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
COSTLY = ("/explanation", "/spectrogram", "/export", "/report")  # ends of what is computed anew for every look
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; connect-src 'self'; font-src 'self'; frame-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Refusal(Exception):
    """A request that goes no further: its status, a sentence, and headers."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Guard:
    """ASGI middleware around `app`; `nonce` is of this service's inline styles."""

    def __init__(self, app: App, settings: Settings, nonce: str) -> None:
        self.app, self.settings = app, settings
        self.headers = {**HEADERS, "content-security-policy": POLICY.format(nonce=nonce)}
        self.buckets: dict[tuple[str, bool], tuple[float, float]] = {}
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        answer = Answer(send, self.headers, fresh=scope["path"].startswith("/static/"))
        self.under_way += 1
        try:
            self.check(scope)
            receive = self.counted(scope, receive, answer)
            await self.app(scope, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        finally:
            self.under_way -= 1
        return None

    def check(self, scope: Scope) -> None:
        """Everything that can be said before the body. Errors: Refusal."""
        if self.under_way > (most := self.settings.limits.at_once):
            raise Refusal(503, f"{most} requests are under way already; try again in some seconds", retry_after="2")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if not self.is_ours(host):
            raise Refusal(
                421,
                f"this service is not called {host[:80]!r}; use the address that `rales serve` printed",
            )
        if scope["path"] not in OPEN_TO_ALL:
            self.check_token(scope, headers)
        changes = scope["method"] not in SAFE_METHODS
        if changes or scope["path"].endswith(COSTLY):
            check_origin(headers, host)
            self.check_rate(scope, changes=changes)
        if changes:
            self.check_size(scope, headers)

    def is_ours(self, host: str) -> bool:
        """Host header -> whether it names this service. An IP address cannot be rebound, a name can."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".").lower()
        except ValueError:
            return False
        if is_loopback(name) or name in {allowed.lower() for allowed in self.settings.allow_hosts}:
            return True
        if is_loopback(self.settings.host):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in {self.settings.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        return True

    def check_token(self, scope: Scope, headers: dict[str, str]) -> None:
        """The token, if one is asked for: as a bearer, as the cookie, or in the address, which makes it a cookie."""
        token = self.settings.token
        if token is None:
            return
        bearer = headers.get("authorization", "").partition(" ")
        given = [bearer[2].strip()] if bearer[0].lower() == "bearer" else cookie(headers)
        if any(same(each, token) for each in given):
            return
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and scope["path"] == "/" and same(dict(query).get("token", ""), token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            raise Refusal(
                303,
                "the token is now kept as a cookie",
                location="/" + (f"?{rest}" if rest else ""),
                set_cookie=f"{COOKIE}={quote(token, safe='')}; Path=/; HttpOnly; SameSite=Strict",
            )
        raise Refusal(
            401,
            "this service asks for its token: open the address that `rales serve` printed, or send the header "
            "`Authorization: Bearer TOKEN`",
            www_authenticate="Bearer",
        )

    def check_rate(self, scope: Scope, *, changes: bool) -> None:
        """At most `burst` requests that change something at once, then `per_second`, for each visitor's address; as
        many costly looks, which are counted apart so that looking never keeps one from saving."""
        limits = self.settings.limits
        visitor = (scope.get("client") or ("",))[0], changes
        now = time.monotonic()
        left, since = self.buckets.get(visitor, (float(limits.burst), now))
        left = min(limits.burst, left + (now - since) * limits.per_second)
        if left < 1:
            wait_s = (1 - left) / limits.per_second
            raise Refusal(
                429,
                f"more than {limits.burst} requests at once or {limits.per_second:g} a second; try again in a second",
                retry_after=str(max(1, round(wait_s))),
            )
        if len(self.buckets) > 10_000:
            self.buckets.clear()
        self.buckets[visitor] = (left - 1, now)

    def most_bytes(self, scope: Scope) -> int:
        uploads = scope["path"] == "/predict" or scope["path"].endswith("/recordings")
        return self.settings.limits.upload_bytes if uploads else self.settings.limits.body_bytes

    def check_size(self, scope: Scope, headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self.most_bytes(scope):
            raise too_large(self.most_bytes(scope))

    def counted(self, scope: Scope, receive: Receive, answer: "Answer") -> Receive:
        """-> `receive` that refuses a body which grows too long, whatever its header promised, or stands still."""
        most, seen, complete = self.most_bytes(scope), 0, False

        async def receiving() -> Message:
            nonlocal seen, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.settings.limits.pause_s)
            except TimeoutError:
                answer.refusal = Refusal(408, "the upload stood still; send it again", connection="close")
                raise answer.refusal from None
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > most:
                answer.refusal = too_large(most)
                raise answer.refusal
            return message

        return receiving


class Answer:
    """`send` that adds the headers. A refusal in the middle of a body takes the place of whatever the service, which
    knows nothing of it, makes of the broken body."""

    def __init__(self, send: Send, headers: dict[str, str], *, fresh: bool) -> None:
        self.send, self.headers = send, headers
        self.begun = self.ended = False
        self.refusal: Refusal | None = None
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

    async def refuse(self, refusal: Refusal) -> None:
        if self.begun:
            return
        self.refusal = None
        body = json.dumps({"detail": refusal.sentence}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        await self({"type": "http.response.body", "body": body})
        self.ended = True


def check_origin(headers: dict[str, str], host: str) -> None:
    """A browser says where a request comes from; programs say nothing, and no page can make them ask."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
    if foreign or site not in ("same-origin", "none"):
        raise Refusal(403, "the request comes from another page; only this service's own page may ask for this")


def too_large(most: int) -> Refusal:
    return Refusal(413, f"larger than the {most / MIB:.3g} MiB that are taken; send less at once", connection="close")


def cookie(headers: dict[str, str]) -> list[str]:
    """-> the token as the cookie has it, and as it was before it was quoted for one."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return []
    return [found.value, unquote(found.value)] if found else []


def same(given: str, token: str) -> bool:
    """Headers come as the bytes that were sent, one letter each."""
    sent = given.encode("latin-1") if max(given, default="") < "\u0100" else given.encode()
    return hmac.compare_digest(sent, token.encode()) or hmac.compare_digest(given.encode(), token.encode())

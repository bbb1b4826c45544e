"""Access control of the page: the token, a ticket that is valid once, and the cookie that replaces either."""

import hmac
import logging
import math
import secrets
import time

from rales.web.settings import Limits

COOKIE_S = 7 * 24 * 3600
TICKET_S = 60
SHORTEST = 16  # characters of a token that is given: the right one is always taken, so its length must stop guessing
log = logging.getLogger(__name__)


class AccessControl:
    """The token and what stands for it, until the service ends."""

    def __init__(self, token: str, limits: Limits) -> None:
        self.token = token
        self.key = secrets.token_bytes(32)  # no cookie tells anything of the token, and all end with the service
        self.tickets: dict[str, float] = {}
        self.each, self.all, self.said = (
            RateLimit(limits.guesses, 60),
            RateLimit(limits.guesses_of_all, 60),
            RateLimit(1, 60),
        )

    def is_token(self, given: str) -> bool:
        """Headers come as the bytes that were sent, one letter each."""
        sent = given.encode("latin-1") if max(given, default="") < "\u0100" else given.encode()
        token = self.token.encode()
        return bool(given) and (hmac.compare_digest(sent, token) or hmac.compare_digest(given.encode(), token))

    # The link for the browser

    def ticket(self) -> str:
        """-> what lets one visitor in within the next minute."""
        ticket = secrets.token_urlsafe(24)
        self.tickets[ticket] = time.monotonic() + TICKET_S
        return ticket

    def takes(self, ticket: str) -> bool:
        """Whether a ticket still held good, which it does not from now on."""
        return time.monotonic() < self.tickets.pop(ticket, 0.0)

    # The cookie

    def cookie(self, name: str, *, secure: bool) -> str:
        """-> the header that has a browser keep the cookie."""
        expires = str(int(time.time()) + COOKIE_S)
        flags = "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if secure else "")
        return f"{name}={expires}.{self.signature(expires)}{flags}"

    def is_cookie(self, value: str) -> bool:
        expires, _, signature = value.partition(".")
        genuine = hmac.compare_digest(signature.encode(), self.signature(expires).encode())
        return genuine and time.time() < int(expires)

    def signature(self, expires: str) -> str:
        return hmac.digest(self.key, expires.encode(), "sha256").hex()

    # Guesses

    def guessed(self, visitor: str) -> int:
        """A wrong token of a visitor -> in how many seconds the visitor may try again, 0 at once.

        The right one is never asked to wait: else whoever guesses could lock out all who share the visitor's address.
        """
        wait_s = self.each.wait_s(visitor) or self.all.wait_s()
        if wait_s and not self.said.wait_s():
            log.warning("somebody guesses the token: many wrong ones, the last from %s", visitor)
        return wait_s


class RateLimit:
    """So many of something in so many seconds, for each name."""

    def __init__(self, many: int, seconds: int) -> None:
        from limits import RateLimitItemPerSecond
        from limits.storage import MemoryStorage
        from limits.strategies import FixedWindowRateLimiter

        self.many, self.item = many, RateLimitItemPerSecond(many, seconds)
        self.counts = FixedWindowRateLimiter(MemoryStorage())

    def wait_s(self, *name: str) -> int:
        """Count one more -> 0, or in how many seconds there is room again."""
        if self.counts.hit(self.item, *name):
            return 0
        return max(1, math.ceil(self.counts.get_window_stats(self.item, *name).reset_time - time.time()))


def parse_cookies(header: str) -> dict[str, str]:
    """Header -> value by name, whatever other services of this host have had kept beside ours."""
    pairs = (part.partition("=") for part in header.split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}

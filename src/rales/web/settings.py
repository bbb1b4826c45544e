"""Settings of a service: its folder, its models, and the limits on its visitors."""

import ipaddress
import secrets
from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """How much a visitor may ask for; each refusal says the number."""

    upload_bytes: int = 64 * MIB
    body_bytes: int = 2 * MIB  # of a request that brings no recording
    annotation_bytes: int = 256 * 1024
    duration_s: float = 600.0
    cycles: int = 2000  # of one recording
    events: int = 5000  # of one recording
    readers: int = 50  # and rounds of theirs, of one recording
    decode_s: int = 20  # processor time, and three times as long by the clock
    decode_bytes: int = 512 * MIB  # above what the decoding process holds before it begins
    decoders: int = 2  # at a time
    waiting: int = 64  # requests that wait for the model
    recordings: int = 10_000  # in all sessions
    live: int = 8  # recordings that are being made, or were left unfinished
    connections: int = 256  # open at a time, fewer where the system allows fewer open files
    burst: int = 300  # changes at once, and as many costly looks, of one visitor
    per_second: float = 5.0  # of them in the long run: a burst is for the time in which this allows as many
    guesses: int = 10  # wrong tokens a minute of one visitor
    guesses_of_all: int = 100  # and of all of them
    head_s: float = 10.0  # that the head of a request may take to come
    pause_s: float = 30.0  # that an upload may stand still, or a visitor read nothing of an answer
    ending_s: float = 2.0  # that requests under way have when the service is told to end


def new_token() -> str:
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Settings:
    """Options of one service. `model` is the default model: a run folder, or None for the package's own. `token` lets
    visitors in; it is made here unless one is given. The recordings of `project`, a folder, are opened in place."""

    folder: Path
    model: str | None = None
    project: Path | None = None
    host: str = "127.0.0.1"
    runs: Path | None = None
    token: str = field(default_factory=new_token, repr=False)
    allow_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def data_folder(folder: Path | None) -> Path:
    """-> the folder given, or the user's data folder."""
    if folder is None:
        from platformdirs import user_data_path

        folder = user_data_path("rales") / "web"
    return folder.absolute()


def visitor_key(client: tuple[str, int] | None) -> str:
    """Address and port of a connection -> whom it is counted for: an address, of IPv6 the network of one site (/64)."""
    if client is None:
        return ""
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return client[0]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"

"""What one service may do: where it keeps sessions, which models it has, how much a visitor may ask for."""

import ipaddress
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
    decode_s: int = 20  # processor time, and three times as long by the clock
    decode_bytes: int = 512 * MIB  # above what the decoding process holds before it begins
    decoders: int = 2  # at a time
    waiting: int = 64  # requests that wait for the model
    recordings: int = 10_000  # in all sessions
    at_once: int = 256  # requests under way
    burst: int = 60  # changes at once, and as many costly looks, of one visitor
    per_second: float = 5.0  # and after that
    pause_s: float = 30.0  # that an upload may stand still


@dataclass(frozen=True)
class Settings:
    """Options of one service. `model` is the default model: a run folder, or None for the package's own."""

    folder: Path
    model: str | None = None
    host: str = "127.0.0.1"
    runs: Path | None = None
    token: str | None = None
    allow_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


def data_folder(folder: Path | None) -> Path:
    """-> the folder given, or the user's data folder."""
    if folder is None:
        from platformdirs import user_data_path

        folder = user_data_path("rales") / "web"
    return folder.absolute()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"

"""Events inside breathing cycles: a wheeze as a box in time and frequency, a crackle as a point, a breath's turn.

A cycle says what is heard in a breath, an event when and at which frequencies. Events stand by their own times: which
cycle one belongs to is told by its middle.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rales.labels import fold_word

WHEEZES: Final = ("wheeze", "rhonchus", "stridor")  # continuous sounds, which last and have a pitch
CRACKLES: Final = ("crackle", "fine crackle", "coarse crackle")  # the first where nothing says which of the two
EXPIRATION: Final = "expiration"  # the moment at which inspiration turns into expiration
KINDS: Final = (*WHEEZES, *CRACKLES, EXPIRATION)
HIGHEST_HZ: Final = 96_000.0  # half the rate of the fastest sound card
LATE_S: Final = 0.05  # that an event may end after the recording, as a cycle may
SPRSOUND_KINDS: Final = {  # type of an event in SPRSound -> what it says is heard
    "Wheeze": ("wheeze",),
    "Rhonchi": ("rhonchus",),
    "Stridor": ("stridor",),
    "Fine Crackle": ("fine crackle",),
    "Coarse Crackle": ("coarse crackle",),
    "Wheeze+Crackle": ("wheeze", "crackle"),
    "Normal": (),
}
_PLURALS: Final = {"rhonchi": "rhonchus", "ronchi": "rhonchus", "ronchus": "rhonchus"}


class Event(NamedTuple):
    """One event: a kind of `KINDS`, times in seconds from the start of the recording (a point starts where it ends),
    and its lowest and highest frequency in Hz, None where they are not known."""

    kind: str
    start_s: float
    end_s: float
    low_hz: float | None = None
    high_hz: float | None = None

    @property
    def is_point(self) -> bool:
        return self.start_s == self.end_s


def find_kind(word: str) -> str | None:
    """Word of a person or a program -> the kind it means, None if it is none: Wheezes, Rhonchi, Fine_Crackle.

    Case, spaces, _ and - make no difference, nor does a plural.
    """
    folded = fold_word(word)
    for known in (folded, re.sub("s$", "", folded), _PLURALS.get(folded)):
        if known in KINDS:
            return known
    return None


def event_problem(event: Event, duration_s: float | None) -> str:
    """Event and the length of its recording (None: unknown) -> what is wrong with it, "" if nothing is."""
    kind, start_s, end_s, low_hz, high_hz = event
    if kind not in KINDS:
        return f"{kind!r} is no kind of event; expected one of {', '.join(KINDS)}"
    if not (math.isfinite(start_s) and math.isfinite(end_s)):
        return "start and end must be numbers of seconds"
    if not 0 <= start_s <= end_s:
        return f"the {kind} lasts from {start_s:g} s to {end_s:g} s, expected 0 <= start <= end"
    if duration_s is not None and (end_s > duration_s + LATE_S or start_s > duration_s):
        return (
            f"the {kind} at {start_s:g}-{end_s:g} s lies past the end of the recording, which lasts {duration_s:.3f} s"
        )
    if kind in WHEEZES and event.is_point:
        return f"the {kind} at {start_s:g} s has no length; give its end"
    if kind == EXPIRATION and not event.is_point:
        return f"expiration begins at one moment, found {start_s:g} s to {end_s:g} s"
    if low_hz is None and high_hz is None:
        return ""
    if kind == EXPIRATION:
        return "the beginning of expiration has no frequencies"
    if low_hz is None or high_hz is None:
        return f"the {kind} at {start_s:g} s has one frequency, expected the lowest and the highest, or none"
    if not 0 <= low_hz < high_hz <= HIGHEST_HZ:  # also where one is no number
        return (
            f"the {kind} at {start_s:g} s lies between {low_hz:g} and {high_hz:g} Hz, expected 0 <= lowest < highest "
            f"<= {HIGHEST_HZ:g}"
        )
    return ""


def sort_events(events: Iterable[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event.start_s, event.end_s, KINDS.index(event.kind), event.low_hz or 0.0))


def flags_of_events(events: Sequence[Event], start_s: float, end_s: float) -> tuple[int, int] | None:
    """Events of a recording and the times of a cycle -> whether crackles and wheezes are marked in it, 0 or 1; None
    where no sound is, which says nothing."""
    kinds = {event.kind for event in events if start_s <= (event.start_s + event.end_s) / 2 < end_s} - {EXPIRATION}
    return (int(not kinds.isdisjoint(CRACKLES)), int(not kinds.isdisjoint(WHEEZES))) if kinds else None

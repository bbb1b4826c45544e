"""Check what this platform can do for the safe decoding of uploaded files."""

import os
import sys

# Only Linux keeps RLIMIT_AS; macOS takes the number and does nothing with it.
LIMITS_MEMORY = sys.platform == "linux"


def find_missing_features() -> str:
    """-> why the page cannot run here, "" where it can."""
    if hasattr(os, "fork"):
        return ""
    return "the web page decodes recordings in forked processes, which this system lacks; use Linux, macOS or WSL"


def find_weaker_promises() -> str:
    """-> what is promised less firmly here than on Linux, "" for nothing."""
    if LIMITS_MEMORY:
        return ""
    return (
        "this system sets no limit on a decoder's memory, so each decoder watches its own and ends itself; one that "
        "fills the memory at a stroke is not stopped"
    )

"""Recordings for schemathesis, which makes up bytes otherwise (SCHEMATHESIS_HOOKS of test_page_described.py)."""

import io

import numpy as np
import schemathesis
import soundfile
from hypothesis import strategies


def sound(seed: int) -> bytes:
    """-> 4 s of noise at 4 kHz as WAV."""
    content = io.BytesIO()
    soundfile.write(content, 0.1 * np.random.default_rng(seed).standard_normal(16_000), 4000, format="WAV")
    return content.getvalue()


schemathesis.openapi.media_type("application/octet-stream", strategies.sampled_from([sound(seed) for seed in range(4)]))

"""Where recordings come from: paths, folders, globs, URLs; formats; what is read ahead, and in which order."""

import pytest

from rales import recordings


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (0.2, [(0, 0.2)]),
        (4.0, [(0, 4.0)]),
        (4.3, [(0, 4.3)]),
        (4.5, [(0, 4), (4, 4.5)]),
        (8.49, [(0, 4), (4, 8.49)]),
        (12.0, [(0, 4), (4, 8), (8, 12.0)]),
    ],
)
def test_windows_cover_a_recording(duration_s: float, expected: list[tuple[float, float]]) -> None:
    assert recordings.windows(duration_s) == expected

"""Fixtures shared by every test: where the expected numbers and the real recordings are."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"
SHARED = REPOSITORY.parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Test processes share the machine's processors, so none of them takes all; it also makes sums repeatable."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of expected numbers made with the public reference implementation (see tests/golden/README.md)."""
    return GOLDEN


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings beside the repository; tests that need it skip where it is missing."""
    if not (SHARED / "data" / "manifest.csv").is_file():
        pytest.skip(f"real recordings are not here: no {SHARED / 'data'}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def icbhi_folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 126 shared ICBHI recordings (icbhi + icbhi_rebuilt) linked into one folder of the official layout."""
    folder = tmp_path_factory.mktemp("icbhi_merged")
    for part in ("icbhi", "icbhi_rebuilt"):
        for file in (shared_data / part).iterdir():
            target = folder / file.name
            if not target.exists():
                target.symlink_to(file)
    return folder

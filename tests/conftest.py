"""Fixtures shared by every test: where the expected numbers and the real recordings are."""

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = REPOSITORY / "tests" / "golden"
SHARED = REPOSITORY.parent / "shared"

# Two runs of one commit try the same examples, so that a change is judged by what it changed; `make test-slow` looks
# for new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("new", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Test processes share the machine's processors, so none of them takes all; it also makes sums repeatable."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power, and a file that waits for the disk takes 8 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


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


@pytest.fixture
def jobs_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch jobs and sweeps without the processes that they start, each of which imports for three seconds. What goes
    to a process and comes back is pickled, as there; tests of what becomes of the processes leave this out."""

    def run(work: Callable[..., Any], tasks: Any, shared: tuple[Any, ...], **_: Any) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            work_there, task_there, shared_there = pickle.loads(pickle.dumps((work, task, shared)))
            try:
                yield task, pickle.loads(pickle.dumps(work_there(task_there, *shared_there)))
            except Exception as error:
                yield task, error

    monkeypatch.setattr("rales.parallel.run_in_processes", run)


@pytest.fixture(scope="session")
def blank_png() -> bytes:
    from matplotlib.figure import Figure

    from rales.report import plots

    return plots.render_png(Figure(figsize=(1, 1)))


@pytest.fixture
def blank_pictures(blank_png: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a report are composed as ever, but not drawn: for what stands in its tables and text."""
    monkeypatch.setattr("rales.report.plots.render_png", lambda figure: blank_png)


# The web page: its packages are heavy, so that they come only with the tests that ask for them.


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and two trained runs (see tests/served.py:train), for reading alone."""
    from tests.served import train

    return train(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def place(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `trained`, to which the tests of a file may add."""
    return shutil.copytree(trained, tmp_path_factory.mktemp("web") / "place")


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[Any]:
    """An httpx client of a service with both runs, which keeps its sessions in `place`/store."""
    from tests.served import served

    with served(place, runs=place / "runs") as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser of this machine."""
    from tests.browsed import started

    with started() as browser:
        yield browser


@pytest.fixture
def open_page(client: Any, browser: Any) -> Iterator[Any]:
    """A function that opens the page of `client` in a fresh profile of `browser` (see tests/browsed.py:pages)."""
    from tests.browsed import pages

    with pages(client, browser) as opened:
        yield opened

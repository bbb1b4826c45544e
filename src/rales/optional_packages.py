"""Check for packages that only some jobs need, with one sentence for all that are missing (exit code 2)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from rales.errors import UsageError

IN_EXTRAS = {"torch": "train", "sklearn": "train"}  # all of training stands on these; of others a job says so itself


def require_packages(what: str, extra: str, *packages: str) -> None:
    """What is asked for, and the packages of `pip install "rales[extra]"` that it takes -> a UsageError if one is not
    installed or cannot be imported. To be called before the work, not where the package is used."""
    for package in packages:
        if sentence := find_missing_package(package, extra):
            raise UsageError(f"{what} {sentence}")


def require_torch(what: str) -> None:
    """What is asked for -> a UsageError where PyTorch, which a core installation answers without, is not there; it is
    not imported."""
    if not is_installed("torch"):
        raise UsageError(f"{what} {describe_missing('torch', 'train')}")


@contextmanager
def explain_missing(what: str, extra: str = "") -> Iterator[None]:
    """`with explain_missing(what):`, or a decorator: what a core installation lacks, found out by an import that fails,
    is a UsageError, which names the extra that has it, or another that has more."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in IN_EXTRAS:
            raise
        raise UsageError(f"{what} {describe_missing(package, extra or IN_EXTRAS[package])}") from error


def describe_missing(package: str, extra: str) -> str:
    return f"needs the package {package}, which is not installed: pip install {name_install(extra)}"


def name_install(extra: str) -> str:
    """Extra, or "" for what every installation has -> what pip is to install."""
    return f'"rales[{extra}]"' if extra else "rales"


def find_missing_package(package: str, extra: str) -> str:
    """Package and the extra it is in -> what is wrong with it and what to do, "" if it can be imported."""
    if not is_installed(package):
        return describe_missing(package, extra)
    try:
        import_module(package)
    except Exception as error:  # a package half installed, or built for other versions of what it stands on
        return (
            f"needs the package {package}, which is installed but cannot be imported ({summarise_error(error)}): "
            f"pip install --upgrade {name_install(extra)}, which takes versions that fit each other"
        )
    return ""


def is_installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    return find_spec(package) is not None


def summarise_error(error: Exception) -> str:
    """Error of a library -> its kind and the first line of what it says."""
    return f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Packages -> their versions, "unknown" for one that is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found

"""Packages that only some jobs need, and the sentence for one that is not installed: the same of all, exit code 2."""

from importlib.util import find_spec

from rales.config import UsageError


def require_packages(what: str, extra: str, *packages: str) -> None:
    """What is asked for, and the packages of `pip install "rales[extra]"` that it takes -> a UsageError if one is not
    installed. To be called before the work, not where the package is used."""
    for package in packages:
        if find_spec(package) is None:
            raise UsageError(f"{what} {how_to_install(package, extra)}")


def how_to_install(package: str, extra: str) -> str:
    return f'needs the package {package}, which is not installed: pip install "rales[{extra}]"'

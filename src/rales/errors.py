"""Exceptions that say who is to act: they carry fields, a sentence is made where it is shown; and plurals for those."""

import errno
from pathlib import Path


class UsageError(ValueError):
    """Wrong words of the user (an unknown name or value), as opposed to a job that found a problem."""


class SettingError(UsageError):
    """A setting that there is not, or a value that it cannot have.

    Parameters
    ----------
    name
        Dotted name of the setting.
    reason
        What was expected, and what to do.
    value
        In words, where it is to blame.
    """

    def __init__(self, name: str, reason: str, value: str | None = None) -> None:
        super().__init__(name, reason, value)
        self.name, self.reason, self.value = name, reason, value

    def describe(self) -> str:
        """-> `name=value: reason`."""
        return f"{self.name}{'' if self.value is None else f'={self.value}'}: {self.reason}"

    def __str__(self) -> str:
        return f"--set {self.describe()}"


class FileProblem(Exception):
    """What is wrong with a file or folder.

    Parameters
    ----------
    path
        Its path or URL.
    reason
        What was found, what was expected, and what to do, without the path.
    line
        Counted from 1, where one line is to blame.
    """

    def __init__(self, path: str | Path, reason: str, line: int | None = None) -> None:
        Exception.__init__(self, path, reason, line)  # not that of OSError, which takes them for other things
        self.path, self.reason, self.line = str(path), reason, line

    def sentence(self, name: str | None = None) -> str:
        """-> path (or the `name` that people know it by), line and reason as one sentence."""
        place = self.path if name is None else name
        return f"{place}: {self.reason}" if self.line is None else f"{place}, line {self.line}: {self.reason}"

    def __str__(self) -> str:
        return self.sentence()


class FileError(FileProblem, ValueError):
    """A file or folder that holds something else than was expected."""


class FileSystemError(FileProblem, OSError):
    """A file or folder that the system does not open, read or write."""


class MissingFileError(FileSystemError, FileNotFoundError):
    """A file or folder that is not there."""


class DiskFullError(FileSystemError):
    """A file that there is no room for."""

    def __init__(self, path: str | Path, reason: str, line: int | None = None) -> None:
        super().__init__(path, reason, line)
        self.errno = errno.ENOSPC


def count_noun(count: int, noun: str, plural: str = "s") -> str:
    """3, "cycle" -> "3 cycles"; 1, "cycle" -> "1 cycle"."""
    return f"{count} {noun}{plural * (count != 1)}"

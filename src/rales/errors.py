"""Exceptions that say who is to act. They carry fields; the sentence of them is made where it is shown."""

from pathlib import Path


class UsageError(ValueError):
    """Wrong words of the user (an unknown name or value), as opposed to a job that found a problem."""


class FileError(ValueError):
    """A file or folder that cannot be used.

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
        super().__init__(path, reason, line)
        self.path, self.reason, self.line = str(path), reason, line

    def sentence(self, name: str | None = None) -> str:
        """-> path (or the `name` that people know it by), line and reason as one sentence."""
        place = self.path if name is None else name
        return f"{place}: {self.reason}" if self.line is None else f"{place}, line {self.line}: {self.reason}"

    def __str__(self) -> str:
        return self.sentence()

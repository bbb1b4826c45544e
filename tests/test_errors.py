"""An exception about a file carries fields, is of the kind that Python has for it, and survives a process border."""

import errno
import pickle

import pytest

from rales.errors import DiskFullError, FileError, FileProblem, FileSystemError, MissingFileError


@pytest.mark.parametrize(
    ("kind", "built_in"),
    [
        (FileError, ValueError),
        (FileSystemError, OSError),
        (MissingFileError, FileNotFoundError),
        (DiskFullError, OSError),
    ],
)
def test_fields_and_sentence_come_back_from_another_process(kind: type[FileProblem], built_in: type[Exception]) -> None:
    error: FileProblem = pickle.loads(pickle.dumps(kind("a/b.csv", "holds nothing; copy it again", 3)))
    assert issubclass(type(error), built_in)
    assert (error.path, error.reason, error.line) == ("a/b.csv", "holds nothing; copy it again", 3)
    assert str(error) == "a/b.csv, line 3: holds nothing; copy it again"
    assert error.sentence("upload") == "upload, line 3: holds nothing; copy it again"
    assert str(kind("a.wav", "empty")) == "a.wav: empty"


def test_only_a_full_disk_is_one() -> None:
    assert DiskFullError("a", "the disk is full").errno == errno.ENOSPC
    assert FileSystemError("the disk is full", "x").errno is None
    assert not isinstance(FileSystemError("a", "b"), ValueError)

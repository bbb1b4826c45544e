"""A data folder with one thing wrong in it."""

from pathlib import Path

import pytest

from rales.data import audit_data, read_cycles
from rales.data.reader import Audit


def audit_of_one_problem(source: Path) -> Audit:
    """Folder or manifest -> the audit, whose only problem the reader names."""
    report: Audit = audit_data(source)
    assert len(report.problems) == 1, report.problems
    with pytest.raises(ValueError, match="rales check") as error:
        read_cycles(source)
    sentence, *advice = str(error.value).splitlines()
    assert sentence == report.problems[0]
    assert "skip_damaged=True (--skip-damaged)" in "".join(advice)
    return report

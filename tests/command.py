"""The command `rales` in this process."""

import pytest

from rales.cli import main


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Words of the command -> exit code, stdout, stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(ended.value.code or 0), out, err

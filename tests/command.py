"""The command `rales` in this process."""

import signal

import pytest

from rales.cli import main


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Words of the command -> exit code, stdout, stderr."""
    capsys.readouterr()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    signal.signal(signal.SIGINT, before)  # an interrupted command hears no second one
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(ended.value.code or 0), out, err

"""Write LEADERBOARD.md from the tables in src/rales/report: `python scripts/write_leaderboard.py`."""

import sys
from pathlib import Path

from rales.report import comparison
from rales.report.literature import check_leaderboard, read_leaderboard, read_measured
from rales.report.page import Block, Section, Table, Text, render_markdown

FILE = Path(__file__).resolve().parent.parent / "LEADERBOARD.md"
LEAD = (
    "Systems with a printed four-class Score on ICBHI 2017, each with the recordings that tested it and the way its "
    "epoch was chosen: two systems are comparable only where both agree. Written by `python "
    "scripts/write_leaderboard.py` from src/rales/report/leaderboard.csv and measured.csv; `rales report` puts your "
    "own runs among them."
)
LEAKS = (
    "A split of recordings at random puts nearly every patient who tests into training, too: such Scores are leaky and "
    "stand apart. `rales protocol` measures what that is worth for any system."
)


def leaderboard_text() -> str:
    """-> the document. ValueError: a row that does not say how it was tested or chosen."""
    entries = read_leaderboard()
    check_leaderboard(entries)
    ours = Table(
        "What Rales has measured itself",
        ["System", "Sp", "Se", "Score", "Recordings", "Split", "Epoch", "Where it stands"],
        read_measured(),
        note="None of it is of the whole database, so no row has a rank; 95 % intervals, patients resampled, where "
        "they were measured.",
    )
    ranked = [comparison.leaderboard_ranking(entries, [])]
    apart: list[Block] = [Text(LEAKS, warning=True), comparison.other_tasks([e for e in entries if not e.is_ranked])]
    sections = [
        Section("official", "The official list of recordings", ranked),
        Section("apart", "Other splits, other tasks", apart),
        Section("ours", "Measured here", [ours]),
    ]
    return render_markdown("Leaderboard: ICBHI 2017, four classes", [Text(LEAD)], sections)


if __name__ == "__main__":
    FILE.write_text(leaderboard_text(), encoding="utf-8")
    print(f"{FILE}: {len(read_leaderboard())} systems", file=sys.stderr)

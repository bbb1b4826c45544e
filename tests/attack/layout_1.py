"""A folder of the page as its first layout kept it: found by the model, with an annotation, and one that waits."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from rales.labels import ICBHI

TABLES = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, name TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE recordings (
    id TEXT PRIMARY KEY, session TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    name TEXT NOT NULL, added REAL NOT NULL, duration_s REAL NOT NULL, rate_hz INTEGER NOT NULL,
    channels INTEGER NOT NULL, status TEXT NOT NULL, problem TEXT NOT NULL DEFAULT '',
    reviewed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX recordings_of ON recordings (session, added);
CREATE TABLE scores (
    recording TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    model TEXT NOT NULL, made REAL NOT NULL, cycles TEXT NOT NULL, PRIMARY KEY (recording, model)
);
CREATE TABLE annotations (
    recording TEXT NOT NULL REFERENCES recordings (id) ON DELETE CASCADE,
    revision INTEGER NOT NULL, saved REAL NOT NULL, cycles TEXT NOT NULL, PRIMARY KEY (recording, revision)
);
PRAGMA user_version = 1;
"""


def write_layout_1(folder: Path) -> None:
    """Stretches that were scored later stand behind the cycles that a recording began with, or in their places."""
    p = dict.fromkeys(ICBHI.columns, 0.25)
    found: list[dict[str, Any]] = [
        {"recording": "a", "cycle": i + 1, "start_s": i + 0.00012, "end_s": i + 1.00012, "label": "normal", **p}
        | {"source": "segment", "true_label": None}
        for i in range(2)
    ]
    later = [{"start_s": 0.5, "end_s": 1.5, "label": "both", **p}, {"start_s": 0, "end_s": 1, "label": "both", **p}]
    places = {name: folder / "recordings" / name for name in ("found", "annotated", "waits")}
    for place in places.values():
        place.mkdir(parents=True)
    (places["annotated"] / "audio.txt").write_text("0 1 1 0\n1 2.0304 0 1\n")
    db = sqlite3.connect(folder / "sessions.sqlite")
    db.executescript(TABLES)
    with db:
        db.execute("INSERT INTO sessions VALUES ('s', 'Old', 1.0)")
        for name in places:
            status = "waiting" if name == "waits" else "ready"
            db.execute(
                "INSERT INTO recordings VALUES (?, 's', ?, 1.0, 2.0304, 4000, 1, ?, '', 0)", (name, name, status)
            )
        for number, (name, model) in enumerate([("found", "first"), ("found", "second"), ("annotated", "first")]):
            rows = [*found, *later] if model == "first" else [{**row, "label": "wheeze"} for row in found]
            db.execute("INSERT INTO scores VALUES (?, ?, ?, ?)", (name, model, 9.0 - number, json.dumps(rows)))
        cycles = json.dumps([{"start_s": 0.0, "end_s": 1.0, "label": "both", "confirmed": True}])
        db.execute("INSERT INTO annotations VALUES ('found', 1, 2.0, ?)", (cycles,))
    db.close()

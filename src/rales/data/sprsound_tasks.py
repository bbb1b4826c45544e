"""Whole recordings of SPRSound as rows, for the challenges' tasks 2-1 and 2-2: one row from its start to its end."""

from dataclasses import replace

from rales.data.reader import Cycle, DatasetContents, Recording
from rales.labels import POOR, TASKS, fold_word

NO_ROWS = "recordings of poor quality, which have no events and give no rows"


def take_recordings(found: DatasetContents, task: str) -> DatasetContents:
    """What SPRSound's reader found and a name of `RECORDING_TASKS` -> the same with a row for each recording instead of
    one for each event, those of poor quality too.

    A recording whose length is unknown, since its sound was not asked for, has no row.
    """
    notes = [note for note in found.notes if NO_ROWS not in note]
    return replace(found, notes=notes, recordings=[_as_one_row(each, task) for each in found.recordings])


def _as_one_row(recording: Recording, task: str) -> Recording:
    label = recording.extra["record_label"]
    if recording.info is None or not label:
        return replace(recording, cycles=())
    known = {fold_word(name) for name in TASKS[task]}
    word = label if fold_word(label) in known else "abnormal"
    has = fold_word(label)
    crackle, wheeze = int("das" in has), int("cas" in has)
    whole = Cycle(0.0, recording.info.duration_s, crackle, wheeze, word)
    if has == POOR:  # nothing is known to be heard or not
        whole = whole._replace(crackle=None, wheeze=None)
    return replace(recording, cycles=[whole])

"""Public databases of respiratory sounds by name: what they hold, where they are, their terms, how to cite them.

Nothing is downloaded: their publishers ask to be visited, so each says what to fetch by hand and how much must then be
there.
"""

from pathlib import Path
from typing import Any, NamedTuple

from rales.errors import UsageError


class Database(NamedTuple):
    """Facts of one database, as its publishers state them; `reader` says what of Rales reads it."""

    name: str
    holds: str
    recordings: int
    size: str
    licence: str
    where: tuple[str, ...]
    cite: str
    reader: str
    note: str
    grows: bool = False
    """Whether recordings are added to it, so that more than stated are right, too."""


DATABASES = {
    "ICBHI": Database(
        name="ICBHI 2017 Respiratory Sound Database",
        holds="126 patients, 6,898 annotated breathing cycles, 5.5 hours; crackles and wheezes per cycle",
        recordings=920,
        size="1.9 GB as a zip",
        licence='"made freely available for research" by its publishers; no formal licence text',
        where=("https://bhichallenge.med.auth.gr", "https://doi.org/10.7910/DVN/HT6PKI (the authors' deposit)"),
        cite="Rocha et al., Physiological Measurement 40 (2019) 035001",
        reader="folder of the archive",
        note="put ICBHI_challenge_train_test.txt into the folder or beside it",
    ),
    "SPRSound": Database(
        name="SJTU Paediatric Respiratory Sound Database",
        holds="292 children of 1 month to 18 years, 9,089 events of seven types, 8.2 hours (release of 2022)",
        recordings=2683,
        size="about 0.5 GB of samples",
        licence="its copies come with the GNU General Public License 3",
        where=("https://github.com/SJTU-YONGFU-RESEARCH-GRP/SPRSound",),
        cite="Zhang et al., IEEE Transactions on Biomedical Circuits and Systems, 2022",
        reader="folder of the repository",
        note="events are labelled, not whole breathing cycles; labels were corrected and recordings of 2023 and later "
        "were added since, so note the commit",
        grows=True,
    ),
    "KAUH": Database(
        name="Lung sounds of King Abdullah University Hospital",
        holds="112 adults, each through three filters of one stethoscope, 1.6 hours; one label per recording",
        recordings=336,
        size="about 50 MB of samples",
        licence="CC BY 4.0",
        where=("https://data.mendeley.com/datasets/jwyy9np4gv/3",),
        cite="Fraiwan et al., Data in Brief 35 (2021) 106913",
        reader="folder of the recordings",
        note="labels of recordings, so it tests models and trains none",
    ),
    "HF_Lung_V1": Database(
        name="HF_Lung_V1",
        holds="34,095 inhalations, 18,349 exhalations, 13,883 continuous and 15,606 discontinuous sounds, 40.7 hours",
        recordings=9765,
        size="about 1.2 GB of samples",
        licence="CC BY 4.0",
        where=("https://gitlab.com/techsupportHF/HF_Lung_V1",),
        cite="Hsu et al., PLOS ONE 16 (2021) e0254134",
        reader="folder of the repository",
        note="phases and sounds are labelled, and Rales makes breaths of them; patients are not told, so recordings of "
        "one day count as those of one",
    ),
}


def list_databases() -> list[dict[str, Any]]:
    """-> the facts of all, for JSON; `word` is the name to ask by."""
    return [{"word": word, **database._asdict()} for word, database in DATABASES.items()]


def find_database(name: str) -> dict[str, Any]:
    """Name, in any case -> its facts. Errors: no such database."""
    for facts in list_databases():
        if name.lower() in (facts["word"].lower(), facts["word"].lower().replace("_", "")):
            return facts
    raise UsageError(f"{name}: no database of that name; there are {', '.join(DATABASES)}")


def check_database(name: str, folder: Path) -> list[str]:
    """Name and the folder that somebody downloaded it to -> what is not as published, nothing if all is there."""
    from rales.data import audit_data

    facts = find_database(name)
    found = audit_data(folder)
    problems = list(found.problems)
    count, published = len(found.recordings), facts["recordings"]
    if count < published or (count > published and not facts["grows"]):
        problems.append(
            f"{folder}: {len(found.recordings)} usable recordings; the whole {facts['word']} has {facts['recordings']}"
        )
    return problems

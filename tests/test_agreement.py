"""Kappa and alpha equal scikit-learn's and the literature's; cycles of readers are matched as a person would."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from rales.errors import FileError, UsageError
from rales.evaluation.agreement import MISSING, cohen_kappa, fleiss_kappa, krippendorff_alpha
from rales.jobs.agreement import JudgedCycle, Reading, compare_readers, match_cycles, overlap_shares, write_differences
from rales.labels import LabelSet
from tests.command import command

FEW = {"resamples": 100}
# Fleiss (1971), table 1 as in every textbook: ten subjects, fourteen raters, how often each of five classes was named
FLEISS = [
    *([0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1]),
    *([7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7]),
]
# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example C: four observers, twelve units, gaps
GAPS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def read_units(observers: list[str]) -> np.ndarray:
    return np.array([[MISSING if said == "." else int(said) for said in unit] for unit in zip(*observers, strict=True)])


def draw_readers(seed: int, readers: int = 2, missing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    true = generator.choice(4, size=200, p=[0.5, 0.3, 0.1, 0.1])
    drawn = [np.where(generator.random(200) < 0.7, true, generator.integers(4, size=200)) for _ in range(readers)]
    ratings = np.stack(drawn, axis=1)
    return np.where(generator.random(ratings.shape) < missing, MISSING, ratings), generator.integers(12, size=200)


@pytest.mark.parametrize("seed", range(5))
def test_cohens_kappa_is_that_of_scikit_learn(seed: int) -> None:
    ratings, patients = draw_readers(seed, missing=0.1)
    both = (ratings != MISSING).all(axis=1)
    found = cohen_kappa(ratings[:, 0], ratings[:, 1], patients, **FEW)
    assert found.value == pytest.approx(cohen_kappa_score(*ratings[both].T), abs=1e-12)
    assert found.agreed == pytest.approx((ratings[both][:, 0] == ratings[both][:, 1]).mean())
    assert (found.cycles, found.patients) == (both.sum(), 12)


def test_literature_examples() -> None:
    raters = np.array([[name for name, many in enumerate(row) for _ in range(many)] for row in FLEISS])
    assert fleiss_kappa(raters, range(10), **FEW).value == pytest.approx(0.210, abs=5e-4)
    assert krippendorff_alpha(read_units(GAPS), range(12), **FEW).value == pytest.approx(0.743, abs=5e-4)
    two = read_units(["0100000010", "1110010000"])  # example A, binary
    assert krippendorff_alpha(two, range(10), **FEW).value == pytest.approx(0.095, abs=5e-4)
    assert krippendorff_alpha(read_units(GAPS), range(12), **FEW).cycles == 11  # one was judged by one reader alone


def test_alpha_by_coincidences() -> None:
    """The definition with its matrix of coincidences, which the package does not build."""
    ratings, patients = draw_readers(3, readers=4, missing=0.3)
    coincidences = np.zeros((4, 4))
    for row in ratings:
        said = row[row != MISSING]
        for i, one in enumerate(said):
            for j, other in enumerate(said):
                if i != j:
                    coincidences[one, other] += 1 / (len(said) - 1)
    totals = coincidences.sum(axis=0)
    observed = 1 - np.trace(coincidences) / totals.sum()
    expected = 1 - (totals * (totals - 1)).sum() / (totals.sum() * (totals.sum() - 1))
    assert krippendorff_alpha(ratings, patients, **FEW).value == pytest.approx(1 - observed / expected, abs=1e-12)


@pytest.mark.parametrize("figure", [fleiss_kappa, krippendorff_alpha])
def test_the_error_is_that_of_the_jackknife(figure) -> None:
    """An independent way to the standard error: leave out one patient after the other."""
    ratings, patients = draw_readers(1, readers=3)
    units = np.unique(patients)
    left = [figure(ratings[patients != one], patients[patients != one], resamples=1).value for one in units]
    jackknife = math.sqrt((len(units) - 1) / len(units) * np.sum((np.array(left) - np.mean(left)) ** 2))
    found = figure(ratings, patients, resamples=2000, seed=0)
    student = 2.201  # of 11 degrees of freedom, which the interval is at least
    assert (found.high - found.low) / 2 == pytest.approx(student * jackknife, rel=0.25)
    assert (found.high - found.low) / 2 > 0.9 * student * jackknife


def test_the_interval_is_by_patient() -> None:
    """Every cycle ten times over tells nothing new."""
    ratings, patients = draw_readers(2)
    once = cohen_kappa(ratings[:, 0], ratings[:, 1], patients, **FEW)
    many = np.repeat(ratings, 10, axis=0)
    tenfold = cohen_kappa(many[:, 0], many[:, 1], np.repeat(patients, 10), **FEW)
    assert tenfold[:3] == pytest.approx(once[:3])


def test_what_does_not_exist() -> None:
    same = cohen_kappa([0, 0, 0], [0, 0, 0], [1, 2, 3], **FEW)
    assert math.isnan(same.value)
    assert same.agreed == 1
    perfect = cohen_kappa([0, 1, 2], [0, 1, 2], [1, 2, 3], **FEW)
    assert perfect.value == 1
    assert math.isnan(perfect.low)  # all patients alike: no resample differs
    with pytest.raises(ValueError, match="no cycle was judged by the readers together"):
        cohen_kappa([0, MISSING], [MISSING, 1], [1, 2])
    with pytest.raises(ValueError, match="expected class numbers"):
        fleiss_kappa([[0.5, 1.0]], [1])


# Matching


def reading(name: str, **cycles: list[tuple[float, float, str]]) -> Reading:
    named = {key.replace("__", "/"): [JudgedCycle(*each) for each in value] for key, value in cycles.items()}
    return Reading(name, name, named)


def test_cycles_are_matched_by_overlap() -> None:
    a = reading("a", anna=[(0, 2, "normal"), (2, 4, "crackle"), (6, 8, "wheeze")])
    b = reading("b", anna=[(0.1, 2.1, "normal"), (2.5, 4.2, "both"), (7.5, 9, "wheeze")])
    rows = match_cycles([a, b])
    assert [(row.start_s, row.labels) for row in rows] == [
        (0, {"a": "normal", "b": "normal"}),
        (2, {"a": "crackle", "b": "both"}),  # 1.5 s of 2.2 s
        (6, {"a": "wheeze"}),
        (7.5, {"b": "wheeze"}),
    ]
    assert [len(row.labels) for row in match_cycles([a, b], 0.7)] == [2, 1, 1, 1, 1]


def test_one_cycle_has_one_partner() -> None:
    """A reader who split a breath in two agrees with the half that covers more of it."""
    rows = match_cycles([reading("a", x=[(0, 4, "normal")]), reading("b", x=[(0, 2.5, "normal"), (2.5, 4, "crackle")])])
    assert [row.labels for row in rows] == [{"a": "normal", "b": "normal"}, {"b": "crackle"}]
    # a third who is near the second, not the first, finds both
    third = match_cycles(
        [
            reading("a", x=[(0, 2, "normal")]),
            reading("b", x=[(0.6, 2.2, "normal")]),
            reading("c", x=[(1, 2.4, "crackle")]),
        ]
    )
    assert [sorted(row.labels) for row in third] == [["a", "b", "c"]]


def test_recordings_are_matched_by_name() -> None:
    """A folder is left out of the name only where no other has that name."""
    cycle = [(0.0, 2.0, "normal")]
    plain, inside = reading("a", anna=cycle), reading("b", visit1__anna=cycle)
    assert len(match_cycles([plain, inside])) == 1
    two = reading("c", visit1__anna=cycle, visit2__anna=cycle)
    assert [len(row.labels) for row in match_cycles([plain, two])] == [1, 1, 1]
    assert [len(row.labels) for row in match_cycles([inside, two])] == [2, 1]
    both = reading("d", anna=cycle, visit1__anna=cycle)  # one reader has two: they are not one recording
    found = {row.recording: sorted(row.labels) for row in match_cycles([plain, inside, both])}
    assert found == {"anna": ["a", "d"], "visit1/anna": ["b", "d"]}


def test_overlaps_of_many_are_those_of_each() -> None:
    ones, others = [JudgedCycle(0, 2, ""), JudgedCycle(5, 5, "")], [JudgedCycle(1, 4, ""), JudgedCycle(5, 5, "")]
    assert overlap_shares(ones, others).tolist() == [[0.25, 0], [0, 0]]  # 1 s of 4 s; what has no length shares nothing
    assert overlap_shares([], others).shape == (0, 2)


# The command


@pytest.fixture
def readers(tmp_path: Path) -> Path:
    """Three readers in three forms; anna's patient is known from the table alone."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = "101_1b1_Al_sc_Meditron.txt"
    (tmp_path / "a" / first).write_text("0\t2\t1\t0\n2\t4\t0\t0\n4\t6\t0\t1\n")
    (tmp_path / "b" / first).write_text("0.1\t2.1\t1\t0\n2\t4\t1\t0\n8\t9\t0\t1\n")
    (tmp_path / "a" / "anna.audacity.txt").write_text("0\t2\tcrackle\n2\t4\tnormal\n")
    (tmp_path / "b" / "anna.txt").write_text("0\t2\tcrackle\n2\t4.1\twheeze\n")
    (tmp_path / "a" / "README.txt").write_text("Files of the session\n")
    (tmp_path / "c.csv").write_text(
        "path,start_s,end_s,label,patient,confirmed\nanna.wav,0,2,crackle,P7,true\nanna.wav,2,4,normal,P7,true\n"
        "101_1b1_Al_sc_Meditron.wav,0,2,both,101,true\n101_1b1_Al_sc_Meditron.wav,2,4,wheeze,101,false\n"
    )
    return tmp_path


def test_files_of_any_form(readers: Path) -> None:
    sources = [str(readers / name) for name in ("a", "b", "c.csv")]
    found = compare_readers(sources, resamples=200)
    assert [(each["name"], each["cycles"], each["matched"]) for each in found["readers"]] == [
        ("a", 5, 4),
        ("b", 5, 4),
        ("c", 3, 3),
    ]
    assert (found["recordings"], found["patients"], found["cycles"]) == (2, 2, 4)
    a_b, a_c, b_c = found["pairs"]
    # crackle crackle normal normal against crackle crackle crackle wheeze
    assert a_b["kappa"]["value"] == pytest.approx(cohen_kappa_score([1, 1, 0, 0], [1, 1, 1, 2]))
    assert a_c["kappa"]["value"] == pytest.approx(cohen_kappa_score([1, 1, 0], [3, 1, 0]))
    assert b_c["kappa"]["value"] == pytest.approx(cohen_kappa_score([1, 1, 2], [3, 1, 0]))
    assert a_b["confusion"] == [[0, 1, 1, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found["findings"]["crackle"]["pairs"][1]["kappa"]["value"] == 1
    assert [row["labels"] for row in found["differences"]] == [
        {"a": "crackle", "b": "crackle", "c": "both"},
        {"a": "normal", "b": "crackle"},
        {"a": "normal", "b": "wheeze", "c": "normal"},
    ]
    assert [(row["reader"], row["start_s"]) for row in found["unmatched"]] == [("a", 4), ("b", 8)]
    assert any("README.txt" in note for note in found["notes"])
    assert any("3 of 4 rows are used" in note for note in found["notes"])

    write_differences(found, readers / "differences.csv")
    assert (readers / "differences.csv").read_text().splitlines()[2] == (
        "101_1b1_Al_sc_Meditron,101,2.0,4.0,normal,crackle,"
    )


def test_a_table_of_several_readers(tmp_path: Path) -> None:
    rows = [("A", 0, 2, "normal"), ("A", 2, 4, "wheeze"), ("B", 0, 2, "normal"), ("B", 2, 4, "normal")]
    lines = [f"x.wav,{start},{end},{label},{reader}\n" for reader, start, end, label in rows]
    table = tmp_path / "readers.csv"
    table.write_text("path,start_s,end_s,label,reader\n" + "".join(lines))
    found = compare_readers([str(table)], resamples=10)
    assert [each["name"] for each in found["readers"]] == ["A", "B"]
    assert found["pairs"][0]["confusion"][0][0] == 1
    named = compare_readers([str(table)], names=["Anna", "Ben"], resamples=10)
    assert named["differences"][0]["labels"] == {"Anna": "wheeze", "Ben": "normal"}


def test_independent_classes_are_compared_one_by_one(tmp_path: Path) -> None:
    labels = LabelSet(("crackle", "wheeze", "stridor"), independent=True)
    for reader, label in (("a", "crackle+stridor"), ("b", "crackle")):
        (tmp_path / f"{reader}.csv").write_text(f"path,start_s,end_s,label\nx.wav,0,2,{label}\nx.wav,2,4,normal\n")
    found = compare_readers([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], label_set=labels, resamples=10)
    assert "alpha" not in found
    assert found["findings"]["crackle"]["pairs"][0]["kappa"]["value"] == 1
    assert found["findings"]["stridor"]["pairs"][0]["kappa"]["value"] == 0


def test_errors_are_sentences(readers: Path) -> None:
    with pytest.raises(UsageError, match="annotations of 1 reader, expected two or more"):
        compare_readers([str(readers / "a")])
    (readers / "empty").mkdir()
    with pytest.raises(FileError, match="no annotation in it"):
        compare_readers([str(readers / "a"), str(readers / "empty")])
    with pytest.raises(FileNotFoundError, match="no such folder"):
        compare_readers([str(readers / "a"), str(readers / "gone")])
    (readers / "b" / "bad.txt").write_text("0\t2\t1\t7\n")
    with pytest.raises(ValueError, match="expected 0 or 1"):
        compare_readers([str(readers / "a"), str(readers / "b")])
    assert any(
        "left out" in note
        for note in compare_readers([str(readers / "a"), str(readers / "b")], skip_damaged=True, resamples=10)["notes"]
    )
    (readers / "other.csv").write_text("path,start_s,end_s,label\nelse.wav,0,2,normal\n")
    with pytest.raises(ValueError, match="no cycle was judged by two readers"):
        compare_readers([str(readers / "a"), str(readers / "other.csv")])


def test_the_command(readers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = [readers / "a", readers / "b"]
    code, out, _ = command(capsys, "agreement", *sources, "--json", "--out", readers / "out.csv")
    document = json.loads(out)
    assert code == 0
    assert document["pairs"][0]["readers"] == ["a", "b"]
    assert "diagnosis" in document["notice"]
    assert (readers / "out.csv").read_text().startswith("recording,patient,start_s,end_s,label_a,label_b")
    _, said, _ = command(capsys, "agreement", *sources)
    assert said.count("not a diagnosis") == 1
    assert "Cohen's kappa a / b" in said
    code, _, wrong = command(capsys, "agreement", *sources, "--out", readers / "a" / "anna.audacity.txt")
    assert (code, "expected a name ending in .csv" in wrong) == (2, True)

"""Splits: the official counts, both repairs, validation parts and folds that keep patients whole."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame

from rales.data import icbhi, splits

CLASSES = ("normal", "crackle", "wheeze", "both")


def make_cycles(rows: list[tuple[str, str, str]]) -> DataFrame:
    return DataFrame(rows, columns=["patient", "split", "label"])


@st.composite
def tables(draw: st.DrawFn) -> DataFrame:
    patients = draw(st.integers(2, 9))
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, patients - 1).map(str), st.sampled_from(["train", "test"]), st.sampled_from(CLASSES)
            ),
            min_size=1,
            max_size=60,
        )
    )
    return make_cycles(rows)


@pytest.fixture(scope="module")
def icbhi_cycles(shared_data: Path) -> DataFrame:
    return icbhi.read_cycles(shared_data / "icbhi_annotations", audio=False)


def test_official_counts_and_repairs(icbhi_cycles: DataFrame) -> None:
    counts = {name: splits.apply(icbhi_cycles, name)["split"].value_counts().to_dict() for name in splits.SPLITS}
    assert counts == {
        "official": {"train": 4142, "test": 2756},
        "official_drop": {"train": 4142, "test": 2636},
        "official_move": {"train": 4025, "test": 2873},
    }
    assert splits.overlap_patients(icbhi_cycles) == ["156", "218"]
    for name in ("official_drop", "official_move"):
        assert splits.overlap_patients(splits.apply(icbhi_cycles, name)) == []
    dropped = splits.official_drop(icbhi_cycles)
    assert icbhi_cycles["recording"].nunique() - dropped["recording"].nunique() == 12


def test_repairs_by_hand() -> None:
    cycles = make_cycles(
        [("a", "train", "normal"), ("b", "train", "both"), ("b", "test", "both"), ("c", "test", "normal")]
    )
    before = cycles.copy()
    assert splits.official(cycles).equals(cycles)
    assert splits.official_drop(cycles)["split"].tolist() == ["train", "train", "test"]
    assert splits.official_drop(cycles).index.tolist() == [0, 1, 2]
    assert splits.official_move(cycles)["split"].tolist() == ["train", "test", "test", "test"]
    assert cycles.equals(before)


def test_unknown_split_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no split 'oficial_drop'; did you mean 'official_drop'"):
        splits.apply(make_cycles([("a", "train", "normal")]), "oficial_drop")


def test_no_split_at_all() -> None:
    with pytest.raises(ValueError, match="no recording is in train or test"):
        splits.official(make_cycles([("a", "", "normal")]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_of_icbhi_is_patient_disjoint_and_stratified(icbhi_cycles: DataFrame, seed: int) -> None:
    result = splits.validation(icbhi_cycles, share=0.2, seed=seed)
    patients = {name: set(rows["patient"]) for name, rows in result.groupby("split")}
    assert patients["validation"].isdisjoint(patients["train"] | patients["test"])
    assert result["split"].eq("test").equals(icbhi_cycles["split"].eq("test"))
    train = icbhi_cycles[icbhi_cycles["split"] == "train"]
    part = result[result["split"] == "validation"]
    assert len(part) / len(train) == pytest.approx(0.2, abs=0.02)
    shares = part["label"].value_counts() / train["label"].value_counts()
    assert shares.to_numpy() == pytest.approx(0.2, abs=0.03)


def test_validation_depends_on_the_seed_only(icbhi_cycles: DataFrame) -> None:
    first = splits.validation(icbhi_cycles, seed=3)
    assert first.equals(splits.validation(icbhi_cycles, seed=3))
    assert not first.equals(splits.validation(icbhi_cycles, seed=4))
    shuffled = icbhi_cycles.sample(frac=1, random_state=0)
    assert splits.validation(shuffled, seed=3).sort_index().equals(first)


@given(tables(), st.floats(0.05, 0.95), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_validation_never_leaks_and_never_empties_train(cycles: DataFrame, share: float, seed: int) -> None:
    in_train = set(cycles.loc[cycles["split"] == "train", "patient"])
    in_test = set(cycles.loc[cycles["split"] == "test", "patient"])
    if len(in_train) < 2 or not in_train - in_test:
        with pytest.raises(ValueError, match="needs two patients"):
            splits.validation(cycles, share, seed)
        return
    result = splits.validation(cycles, share, seed)
    patients = {name: set(rows["patient"]) for name, rows in result.groupby("split")}
    assert patients["validation"] <= in_train - in_test
    assert patients["validation"].isdisjoint(patients["train"])
    assert result["split"].ne("validation").sum() + len(result[result["split"] == "validation"]) == len(cycles)
    assert result["split"].where(result["split"] != "validation", "train").equals(cycles["split"])


@pytest.mark.parametrize("share", [0, 1, -0.2, 20])
def test_impossible_share(share: float) -> None:
    cycles = make_cycles([("a", "train", "normal"), ("b", "train", "normal")])
    with pytest.raises(ValueError, match="expected a fraction between 0 and 1"):
        splits.validation(cycles, share)


def test_folds_of_icbhi_are_patient_disjoint_and_even(icbhi_cycles: DataFrame) -> None:
    fold = splits.folds(icbhi_cycles, k=5, seed=0)
    assert fold.name == "fold"
    assert sorted(set(fold)) == [0, 1, 2, 3, 4]
    assert icbhi_cycles["patient"].groupby(fold).nunique().sum() == 126
    sizes = fold.value_counts()
    assert sizes.max() / sizes.min() < 1.05
    counts = pd.crosstab(fold, icbhi_cycles["label"])
    assert np.all(counts / counts.sum() > 0.15)
    assert np.all(counts / counts.sum() < 0.25)


def test_folds_depend_on_the_seed_only(icbhi_cycles: DataFrame) -> None:
    first = splits.folds(icbhi_cycles, seed=0)
    assert first.equals(splits.folds(icbhi_cycles, seed=0))
    assert not first.equals(splits.folds(icbhi_cycles, seed=1))


@given(tables(), st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_folds_are_never_empty(cycles: DataFrame, seed: int, data: st.DataObject) -> None:
    patients = cycles["patient"].nunique()
    if patients < 2:
        return
    k = data.draw(st.integers(2, patients))
    fold = splits.folds(cycles, k, seed)
    assert set(fold) == set(range(k))
    assert (fold.groupby(cycles["patient"]).nunique() == 1).all()


@pytest.mark.parametrize(("patients", "expected"), [(2, 2), (4, 4), (5, 5), (9, 5)])
def test_folds_follow_the_patients_there_are(patients: int, expected: int) -> None:
    cycles = DataFrame({"patient": list("abcdefghi"[:patients]) * 4, "label": ["normal"] * 4 * patients})
    assert splits.folds(cycles).nunique() == expected


def test_folds_of_a_single_patient_are_a_sentence() -> None:
    with pytest.raises(ValueError, match="of 1 patient, and patient-disjoint folds need two or more"):
        splits.folds(DataFrame({"patient": ["a"] * 4, "label": ["normal"] * 4}))


def test_more_folds_than_patients() -> None:
    cycles = make_cycles([("a", "train", "normal"), ("b", "test", "normal")])
    with pytest.raises(ValueError, match="3 folds of 2 patients; ask for 2 to 2 folds"):
        splits.folds(cycles, k=3)
    with pytest.raises(ValueError, match="1 folds of 2 patients"):
        splits.folds(cycles, k=1)


def test_one_fold_as_test() -> None:
    cycles = make_cycles([(patient, "train", "normal") for patient in "aabbc"])
    fold = splits.folds(cycles, k=3)
    tested = [splits.fold(cycles, fold, i)["split"].eq("test") for i in range(3)]
    assert pd.concat(tested, axis=1).sum(axis=1).eq(1).all()
    assert tested[0].equals(fold.eq(0))
    with pytest.raises(ValueError, match="no fold 3; there are 0 to 2"):
        splits.fold(cycles, fold, 3)

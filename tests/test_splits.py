"""Splits: the official counts, both repairs, validation parts and folds that keep patients whole."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame

import rales.data
from rales.data import splits
from rales.settings import RunSettings, parse_words, set_fields

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
    return rales.data.read_cycles(shared_data / "icbhi_annotations", audio=False)


def test_official_counts_and_repairs(icbhi_cycles: DataFrame) -> None:
    counts = {name: splits.apply_split(icbhi_cycles, name)["split"].value_counts().to_dict() for name in splits.SPLITS}
    assert counts == {
        "official": {"train": 4142, "test": 2756},
        "official_drop": {"train": 4142, "test": 2636},
        "official_move": {"train": 4025, "test": 2873},
    }
    assert splits.overlap_patients(icbhi_cycles) == ["156", "218"]
    for name in ("official_drop", "official_move"):
        assert splits.overlap_patients(splits.apply_split(icbhi_cycles, name)) == []
    dropped = splits.split_without_overlap(icbhi_cycles)
    assert icbhi_cycles["recording"].nunique() - dropped["recording"].nunique() == 12


def test_repairs_by_hand() -> None:
    cycles = make_cycles(
        [("a", "train", "normal"), ("b", "train", "both"), ("b", "test", "both"), ("c", "test", "normal")]
    )
    before = cycles.copy()
    assert splits.split_officially(cycles).equals(cycles)
    assert splits.split_without_overlap(cycles)["split"].tolist() == ["train", "train", "test"]
    assert splits.split_without_overlap(cycles).index.tolist() == [0, 1, 2]
    assert splits.split_overlap_to_test(cycles)["split"].tolist() == ["train", "test", "test", "test"]
    assert cycles.equals(before)


def test_unknown_split_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no split 'oficial_drop'; did you mean 'official_drop'"):
        splits.apply_split(make_cycles([("a", "train", "normal")]), "oficial_drop")


def test_no_split_at_all() -> None:
    with pytest.raises(ValueError, match="no recording is in train or test"):
        splits.split_officially(make_cycles([("a", "", "normal")]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_validation_of_icbhi_is_patient_disjoint_and_stratified(icbhi_cycles: DataFrame, seed: int) -> None:
    result = splits.hold_out_validation(icbhi_cycles, share=0.2, seed=seed)
    patients = {name: set(rows["patient"]) for name, rows in result.groupby("split")}
    assert patients["validation"].isdisjoint(patients["train"] | patients["test"])
    assert result["split"].eq("test").equals(icbhi_cycles["split"].eq("test"))
    train = icbhi_cycles[icbhi_cycles["split"] == "train"]
    part = result[result["split"] == "validation"]
    assert len(part) / len(train) == pytest.approx(0.2, abs=0.02)
    shares = part["label"].value_counts() / train["label"].value_counts()
    assert shares.to_numpy() == pytest.approx(0.2, abs=0.03)


def test_validation_depends_on_the_seed_only(icbhi_cycles: DataFrame) -> None:
    first = splits.hold_out_validation(icbhi_cycles, seed=3)
    assert first.equals(splits.hold_out_validation(icbhi_cycles, seed=3))
    assert not first.equals(splits.hold_out_validation(icbhi_cycles, seed=4))
    shuffled = icbhi_cycles.sample(frac=1, random_state=0)
    assert splits.hold_out_validation(shuffled, seed=3).sort_index().equals(first)


@given(tables(), st.floats(0.05, 0.95), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_validation_never_leaks_and_never_empties_train(cycles: DataFrame, share: float, seed: int) -> None:
    in_train = set(cycles.loc[cycles["split"] == "train", "patient"])
    in_test = set(cycles.loc[cycles["split"] == "test", "patient"])
    if len(in_train) < 2 or not in_train - in_test:
        with pytest.raises(ValueError, match="needs two patients"):
            splits.hold_out_validation(cycles, share, seed)
        return
    result = splits.hold_out_validation(cycles, share, seed)
    patients = {name: set(rows["patient"]) for name, rows in result.groupby("split")}
    assert patients["validation"] <= in_train - in_test
    assert patients["validation"].isdisjoint(patients["train"])
    assert result["split"].ne("validation").sum() + len(result[result["split"] == "validation"]) == len(cycles)
    assert result["split"].where(result["split"] != "validation", "train").equals(cycles["split"])


@pytest.mark.parametrize("share", [0, 1, -0.2, 20])
def test_impossible_share(share: float) -> None:
    cycles = make_cycles([("a", "train", "normal"), ("b", "train", "normal")])
    with pytest.raises(ValueError, match="expected a fraction between 0 and 1"):
        splits.hold_out_validation(cycles, share)


def test_folds_of_icbhi_are_patient_disjoint_and_even(icbhi_cycles: DataFrame) -> None:
    fold = splits.assign_folds(icbhi_cycles, k=5, seed=0)
    assert fold.name == "fold"
    assert sorted(set(fold)) == [0, 1, 2, 3, 4]
    assert icbhi_cycles["patient"].groupby(fold).nunique().sum() == 126
    sizes = fold.value_counts()
    assert sizes.max() / sizes.min() < 1.05
    counts = pd.crosstab(fold, icbhi_cycles["label"])
    assert np.all(counts / counts.sum() > 0.15)
    assert np.all(counts / counts.sum() < 0.25)


def test_folds_depend_on_the_seed_only(icbhi_cycles: DataFrame) -> None:
    first = splits.assign_folds(icbhi_cycles, seed=0)
    assert first.equals(splits.assign_folds(icbhi_cycles, seed=0))
    assert not first.equals(splits.assign_folds(icbhi_cycles, seed=1))


@given(tables(), st.integers(0, 5), st.data())
@settings(max_examples=60, deadline=None)
def test_folds_are_never_empty(cycles: DataFrame, seed: int, data: st.DataObject) -> None:
    patients = cycles["patient"].nunique()
    if patients < 2:
        return
    k = data.draw(st.integers(2, patients))
    fold = splits.assign_folds(cycles, k, seed)
    assert set(fold) == set(range(k))
    assert (fold.groupby(cycles["patient"]).nunique() == 1).all()


@pytest.mark.parametrize(("patients", "expected"), [(2, 2), (4, 4), (5, 5), (9, 5)])
def test_folds_follow_the_patients_there_are(patients: int, expected: int) -> None:
    cycles = DataFrame({"patient": list("abcdefghi"[:patients]) * 4, "label": ["normal"] * 4 * patients})
    assert splits.assign_folds(cycles).nunique() == expected


def test_folds_of_a_single_patient_are_a_sentence() -> None:
    with pytest.raises(ValueError, match="of 1 patient, and patient-disjoint folds need two or more"):
        splits.assign_folds(DataFrame({"patient": ["a"] * 4, "label": ["normal"] * 4}))


def test_more_folds_than_patients() -> None:
    cycles = make_cycles([("a", "train", "normal"), ("b", "test", "normal")])
    with pytest.raises(ValueError, match="3 folds of 2 patients; ask for 2 to 2 folds"):
        splits.assign_folds(cycles, k=3)
    with pytest.raises(ValueError, match="1 folds of 2 patients"):
        splits.assign_folds(cycles, k=1)


def test_one_fold_as_test() -> None:
    cycles = make_cycles([(patient, "train", "normal") for patient in "aabbc"])
    fold = splits.assign_folds(cycles, k=3)
    tested = [splits.select_fold(cycles, fold, i)["split"].eq("test") for i in range(3)]
    assert pd.concat(tested, axis=1).sum(axis=1).eq(1).all()
    assert tested[0].equals(fold.eq(0))
    with pytest.raises(ValueError, match="no fold 3; there are 0 to 2"):
        splits.select_fold(cycles, fold, 3)


def clinic(patients: dict[str, list[int]], split: str = "train") -> DataFrame:
    """Patient -> cycles per class, as a table of one recording a patient."""
    rows = [
        (patient, split, name)
        for patient, counts in patients.items()
        for name, count in zip(CLASSES, counts, strict=True)
        for _ in range(count)
    ]
    table = make_cycles(rows)
    return table.assign(recording=table["patient"], cycle=table.groupby("patient").cumcount() + 1)


def counts_of(table: DataFrame, column: str) -> dict[object, list[int]]:
    """-> cycles per class of every value of a column."""
    return {value: [int((rows["label"] == name).sum()) for name in CLASSES] for value, rows in table.groupby(column)}


@pytest.mark.parametrize("seed", range(4))
def test_validation_hits_the_share_of_every_class_where_that_can_be_done(seed: int) -> None:
    """Ten patients with both kinds of breath and ten with one kind each: a fifth of all of them is a fifth of each."""
    mixed = {f"m{i}": [6, 3, 2, 1] for i in range(10)}
    single = {f"s{i}": [10, 0, 0, 0] if i % 2 else [0, 10, 0, 0] for i in range(10)}
    table = clinic(mixed | single)
    found = counts_of(splits.hold_out_validation(table, 0.2, seed), "split")
    assert found["validation"] == [22, 16, 4, 2]
    assert found["train"] == [88, 64, 16, 8]


def test_validation_comes_closer_to_the_share_than_patients_at_random() -> None:
    random = np.random.default_rng(0)
    table = clinic({f"p{i}": random.integers(0, 40, 4).tolist() for i in range(30)})
    total = np.array(counts_of(table, "split")["train"])

    def error(chosen: DataFrame) -> float:
        have = np.array([(chosen["label"] == name).sum() for name in CLASSES])
        return float(np.abs(have / total - 0.2).max())

    found = [
        error(part[part["split"] == "validation"])
        for part in (splits.hold_out_validation(table, 0.2, s) for s in range(5))
    ]
    names = table["patient"].unique()
    drawn = [error(table[table["patient"].isin(random.choice(names, 6, replace=False))]) for _ in range(300)]
    assert max(found) < np.quantile(drawn, 0.02)


@pytest.mark.parametrize("seed", range(4))
def test_folds_are_even_in_every_class_where_that_can_be_done(seed: int) -> None:
    kinds = [[8, 0, 0, 0], [0, 8, 0, 0], [2, 2, 2, 2], [1, 0, 0, 3]]
    table = clinic({f"{kind}{i}": counts for kind, counts in zip("abcd", kinds, strict=True) for i in range(10)})
    found = counts_of(table.assign(fold=splits.assign_folds(table, 5, seed)), "fold")
    assert found == {fold: [22, 20, 4, 10] for fold in range(5)}


def test_folds_are_even_although_patients_are_not() -> None:
    """40 to 1 cycles a patient: the small ones even out what the large ones leave."""
    table = clinic({f"p{i}": [i, 0, 0, 0] for i in range(1, 41)})
    sizes = [np.bincount(splits.assign_folds(table, 5, seed)) for seed in range(8)]
    assert max(int(np.ptp(size)) for size in sizes) <= 16
    assert len({tuple(size) for size in sizes}) > 1  # the seed matters


def named(*words: str) -> RunSettings:
    return set_fields(RunSettings(), parse_words(words))


@pytest.mark.parametrize("seed", [0, 3])
def test_a_run_divides_by_the_fold_its_settings_name(seed: int) -> None:
    table = clinic({f"p{i}": [3, 1, 1, 0] for i in range(12)}, split="")
    words = ["split.name=folds", "split.folds=4", "split.fold=2", f"split.seed={seed}"]
    divided = splits.divide_cycles(table, named(*words))
    assert divided["split"].tolist() == np.where(splits.assign_folds(table, 4, seed) == 2, "test", "train").tolist()

    held_out = splits.divide_cycles(table, named(*words, "train.select=validation"))
    assert (held_out["split"] == "test").tolist() == (divided["split"] == "test").tolist()
    train = divided[divided["split"] != "test"]
    expected = splits.hold_out_validation(train, 0.2, seed)
    assert held_out.loc[expected.index, "split"].tolist() == expected["split"].tolist()
    assert set(held_out["split"]) == {"train", "validation", "test"}


def test_a_run_keeps_the_rows_its_split_leaves_out_and_a_validation_part_that_is_there() -> None:
    table = pd.concat([clinic({"a": [2, 1, 0, 0], "b": [1, 1, 0, 0]}), clinic({"b": [2, 0, 0, 0]}, "test")])
    table = pd.concat([table, clinic({"c": [1, 0, 0, 0]}, "test"), clinic({"d": [1, 1, 0, 0]}, "validation")])
    table = table.assign(recording=table["patient"] + table["split"]).reset_index(drop=True)
    table.attrs["left_out"] = ["something"]
    config = named("split.name=official_drop", "train.select=validation")
    divided = splits.divide_cycles(table, config)
    expected = np.where((table["patient"] == "b") & (table["split"] == "test"), "", table["split"])
    assert divided["split"].tolist() == expected.tolist()
    assert divided.attrs == {"left_out": ["something"]}
    only_train = table[table["split"] == "train"]
    said = r"^no test cycles under split 'official'; the data has only \['train'\]"
    with pytest.raises(
        ValueError, match=said + "; in a column split, add one, or --set split.name=folds makes folds of"
    ):
        splits.divide_cycles(only_train, RunSettings())
    folds = named("split.name=folds", "split.folds=2")
    with pytest.raises(ValueError, match=r"^no validation cycles under split 'folds'; the data has only .*'train'.$"):
        splits.divide_cycles(only_train, folds, needed=("validation",))


def test_a_table_needs_only_one_side_to_have_an_official_split() -> None:
    for side in ("train", "test"):
        table = clinic({"a": [1, 0, 0, 0]}, side)
        assert splits.split_officially(table)["split"].tolist() == [side]


def test_dropped_rows_leave_no_gap_in_the_index() -> None:
    cycles = make_cycles(
        [("a", "test", "normal"), ("b", "train", "both"), ("b", "test", "both"), ("c", "test", "both")]
    )
    dropped = splits.split_without_overlap(cycles)
    assert dropped.index.tolist() == [0, 1, 2]
    assert dropped.columns.tolist() == cycles.columns.tolist()


def test_the_column_of_folds_is_named_and_follows_the_rows() -> None:
    table = clinic({"a": [2, 0, 0, 0], "b": [1, 1, 0, 0], "c": [0, 0, 3, 0]}).set_index(pd.Index(range(10, 17)))
    found = splits.assign_folds(table, 3)
    assert (found.name, found.index.tolist(), str(found.dtype)) == ("fold", list(range(10, 17)), "int64")
    assert sorted(set(found)) == [0, 1, 2]
    assert found.groupby(table["patient"]).nunique().tolist() == [1, 1, 1]
    with pytest.raises(
        ValueError, match=r"^the cycles are of 1 patient, and patient-disjoint folds need two or more; give"
    ):
        splits.assign_folds(table[:2])


def test_recordings_at_random_are_those_of_public_loaders(icbhi_cycles: DataFrame) -> None:
    """The figures that a re-run of MVST's, RSC-FTF's and ADD-RSC's loaders gave: nearly all test patients train."""
    divided = splits.divide_cycles(icbhi_cycles, named("split.name=leaky_recordings", "split.seed=1"))
    parts = {str(part): rows for part, rows in divided.groupby("split")}
    assert {part: (rows["recording"].nunique(), len(rows)) for part, rows in parts.items()} == {
        "train": (552, 4213),
        "test": (368, 2685),
    }
    assert parts["test"]["patient"].nunique() == 93
    assert len(splits.overlap_patients(divided)) == 76
    official_train = set(icbhi_cycles.loc[icbhi_cycles["split"] == "train", "recording"])
    assert len(official_train & set(parts["test"]["recording"])) == 230


def test_published_folds_of_icbhi(icbhi_cycles: DataFrame) -> None:
    fold = splits.assign_published_folds(icbhi_cycles)
    assert fold.value_counts().to_dict() == {0: 3455, 1: 704, 2: 536, 3: 759, 4: 1444}
    assert icbhi_cycles["patient"].groupby(fold).nunique().tolist() == [26, 25, 25, 25, 25]
    divided = splits.divide_cycles(icbhi_cycles, named("split.name=respirenet", "split.fold=4"))
    tests = divided[divided["split"] == "test"]
    assert tests["label"].value_counts().to_dict() == {"normal": 775, "crackle": 391, "wheeze": 206, "both": 72}
    with pytest.raises(ValueError, match="none of the patients here is in RespireNet's list"):
        splits.assign_published_folds(make_cycles([("a", "train", "normal")]))


def test_one_device_tests_and_its_patients_do_not_train() -> None:
    rows = [("a", "X"), ("a", "Y"), ("b", "Y"), ("c", "Z"), ("d", "")]
    table = DataFrame(rows, columns=["patient", "device"]).assign(split="train", label="normal")
    assert splits.leave_device_out(table, "Y")["split"].tolist() == ["", "test", "test", "train", "train"]
    assert splits.leave_device_out(table, "X")["split"].tolist() == ["test", "", "train", "train", "train"]
    with pytest.raises(ValueError, match=r"split\.device=W: no recording here is of it; there are X, Y, Z"):
        splits.leave_device_out(table, "W")


@pytest.mark.parametrize("name", ["patients", "leaky_recordings", "leaky_cycles"])
def test_what_is_drawn_at_random_is_whole_and_its_validation_too(name: str) -> None:
    table = clinic({f"p{i}": [6, 2, 2, 2] for i in range(10)}, split="")
    table["recording"] = table["patient"] + "_" + (table["cycle"] % 4).astype(str)
    words = [f"split.name={name}", "split.seed=3", "train.select=validation", "train.validation_share=0.25"]
    divided = splits.divide_cycles(table, named(*words))
    shares = divided["split"].value_counts(normalize=True).to_dict()
    assert shares["test"] == pytest.approx(0.4)
    assert shares["validation"] == pytest.approx(0.15, abs=0.06)  # a quarter of 60 %
    for column, whole in (("patient", ["patients"]), ("recording", ["patients", "leaky_recordings"])):
        parts = divided.groupby(column)["split"].nunique()
        assert (parts == 1).all() == (name in whole)
    shuffled = table.sample(frac=1, random_state=0)
    assert splits.divide_cycles(shuffled, named(*words))["split"].sort_index().equals(divided["split"])
    other = splits.divide_cycles(table, named(*words[:1], "split.seed=4", *words[2:]))
    assert not other["split"].equals(divided["split"])


def test_a_draw_leaves_something_on_both_sides() -> None:
    assert len(splits.draw_units(["a", "b", "b"], 0.01, 0)) == 1
    assert len(splits.draw_units(["a", "b"], 0.99, 0)) == 1
    assert len(splits.draw_units([f"{i}" for i in range(10)], 0.6, 0)) == 6


@pytest.mark.parametrize("name", ["folds", "respirenet", "device", "patients", *splits.LEAKY])
def test_splits_of_their_own_need_no_list(name: str) -> None:
    assert not splits.needs_list(name)
    assert name not in splits.SPLITS
    assert all(map(splits.needs_list, splits.SPLITS))

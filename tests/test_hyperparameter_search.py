"""A search for settings: its space, what stops a trial, going on, and that the test cycles decide nothing."""

from pathlib import Path
from typing import Any

import pytest

from rales.cli import main
from rales.cli.result_lines import search_lines
from rales.errors import UsageError
from rales.files.json_files import read_json
from rales.jobs import hyperparameter_search as job
from rales.jobs.hyperparameter_search import StopBelowMedian, Tried
from rales.jobs.sweep import Pruned
from tests import tiny

pytest.importorskip("optuna")

SPACE = ["train.lr=1e-4..1e-1,log", "train.warmup_epochs=0..1", "train.class_weights=inverse,none"]
FIXED = ["size=tiny", *tiny.SETTINGS, "train.epochs=2"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path_factory.getbasetemp() / "search_cache"))


def run(data: Path, out: Path, budget: int) -> dict[str, Any]:
    return job.search_settings("m2d_fusion", SPACE, data, out, method="bayesian", budget=budget, fixed=FIXED)


def test_a_space() -> None:
    space = job.parse_space(SPACE)
    assert [(type(each).__name__, job.ends_of(each)) for each in space.values()] == [
        ("FloatDistribution", [1e-4, 1e-1]),
        ("IntDistribution", [0, 1]),
        ("CategoricalDistribution", ["inverse", "none"]),
    ]
    assert getattr(space["train.lr"], "log", False)
    for wrong in ("train.lr", "train.lr=", "train.lr=2..1", "train.lr=0..1,log", "train.lr=a..b", "train.lr=1..2,3"):
        with pytest.raises(UsageError, match=f"--space {wrong}"):
            job.parse_space([wrong])
    with pytest.raises(UsageError, match="each name once"):
        job.parse_space(["train.lr=1,2", "train.lr=3,4"])
    space = job.parse_space(["train.lr=.0001..0.01", "model.layers=[1,2],[3]"])
    assert [job.ends_of(each) for each in space.values()] == [[1e-4, 1e-2], ["[1,2]", "[3]"]]
    for wrong, sentence in (("model.layers=[1,2", "a bracket"), ("variant=a,a", "every value once")):
        with pytest.raises(UsageError, match=sentence):
            job.parse_space([wrong])


@pytest.mark.parametrize("name", [*job.DECIDING, "split.seed", "split.name"])
def test_what_trials_are_compared_by_is_one(name: str) -> None:
    with pytest.raises(UsageError, match="decides what the trials are compared by"):
        job.parse_space([f"{name}=1,2"])


@pytest.mark.parametrize(
    ("word", "sentence"),
    [("seed=3", "all trials of a search have one seed, 0"), ("train.select=last", "chooses by validation patients")],
)
def test_what_a_search_has_itself_is_refused(tmp_path: Path, word: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"--set {word}: .*{sentence}"):
        job.search_settings("m2d_fusion", SPACE, tmp_path, tmp_path, method="random", budget=1, fixed=[word])


def test_the_advice_names_the_same_system() -> None:
    best = {"name": "trial001", "values": {"model.layers": "[1,2]"}, "state": "done", "figures": {"1": 0.7}}
    settings = {"recipe": "m2d_fusion", "fixed": ["size=tiny", "train.select=validation"], "figure": "validation auroc"}
    document = {"settings": settings, "best": {**best, "figure": 0.7}, "tried": [{**best, "error": ""}]}
    [said] = [line for line in search_lines(document) if line.startswith("train it:")]
    assert "rales train m2d_fusion --set size=tiny --set 'model.layers=[1,2]' --select validation" in said


@pytest.mark.parametrize("word", ["--space=train.lr=1..2", "--budget=3", "--search=random --address=here"])
def test_words_of_a_search_and_of_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "m2d_fusion", "--data", str(tmp_path), "--out", str(tmp_path / "out"), *word.split()])
    assert ended.value.code == 2
    refused = word.split("=")[0] if "address" not in word else "--address"
    said = " ".join(capsys.readouterr().err.split())
    assert f"{refused} {'goes with --search' if refused != '--address' else 'does not go with --search'}" in said


def tried(*figures: float, state: Any = "done") -> Tried:
    return Tried("", {}, state, {str(epoch): figure for epoch, figure in enumerate(figures, 1)})


def test_a_trial_stops_below_the_median_of_the_best_so_far() -> None:
    """Best by epoch 2: 0.6, 0.7, 0.8 and, of a trial that was stopped, 0.5; by epoch 3 only three tell."""
    past = [tried(0.6, 0.5, 0.9), tried(0.7, 0.7, 0.7), tried(0.5, 0.8, 0.6), tried(0.4, 0.5, state="pruned")]
    assert job.medians_by_epoch(past, epochs=8) == {2: pytest.approx(0.65)}
    assert job.medians_by_epoch(past[:3], epochs=8) == {}

    def line(epoch: int, figure: float, split: str = "validation") -> dict[str, Any]:
        return {"epoch": epoch, "split": split, "auroc": figure, "score": 0.0}

    stop = StopBelowMedian("auroc", {2: 0.65})
    stop([line(1, 0.66), line(1, 0.0, "test")])
    stop([line(2, 0.1), line(2, 0.0, "test")])  # its best is above
    late = StopBelowMedian("auroc", {2: 0.65}, [0.64])
    with pytest.raises(Pruned, match=r"epoch 2: 0\.640, the median of others is 0\.650"):
        late([line(2, 0.3), line(2, 0.9, "test")])


@pytest.mark.parametrize("method", ["random", "bayesian"])
def test_the_next_trial_follows_from_the_past_and_the_seed(method: job.Method) -> None:
    space = job.parse_space(SPACE)
    past = []
    for i in range(12):
        values = {"train.lr": 10 ** -(1 + i / 4), "train.warmup_epochs": 0, "train.class_weights": "none"}
        past.append(Tried(f"{i}", values, "done", {"1": -abs(i - 6)}))
    assert job.ask(space, past, method, 0) == job.ask(space, past, method, 0)
    assert job.ask(space, past, method, 0) != job.ask(space, past, method, 1)
    if method == "bayesian":  # the best were at 10^-2.5
        found = [job.ask(space, past, method, seed)["train.lr"] for seed in range(7)]
        assert 10**-3.2 < sorted(found)[3] < 10**-1.8


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_search_goes_on_and_the_test_cycles_decide_nothing(tmp_path: Path) -> None:
    data, other = tiny.write_folder(tmp_path / "data"), tiny.write_folder(tmp_path / "other")
    for patient in tiny.TEST:  # all of them normal, in the other folder
        [file] = other.glob(f"{patient}_*.txt")
        file.write_text("".join(f"{i}\t{i + 1}\t0\t0\n" for i in range(4)))
    assert len(run(data, tmp_path / "out", 1)["tried"]) == 1
    found, apart = run(data, tmp_path / "out", 2), run(other, tmp_path / "apart", 2)
    for document in (found, apart):
        for each in (*document["tried"], document["best"]):
            del each["seconds"]
    assert found["tried"] == apart["tried"]
    assert found["best"] == apart["best"]
    assert [sorted(each["figures"]) for each in found["tried"]] == [["1", "2"]] * 2
    assert found["best"]["figure"] == max(max(each["figures"].values()) for each in found["tried"])
    stored = read_json(tmp_path / "out" / "runs" / "trial001" / "config.json")["config"]
    assert stored["train"]["select"] == "validation"
    assert stored["train"]["lr"] == found["tried"][0]["values"]["train.lr"]
    with pytest.raises(ValueError, match="holds a search of other settings"):
        job.search_settings("m2d_fusion", SPACE[:1], data, tmp_path / "out", method="bayesian", budget=3, fixed=FIXED)


@pytest.mark.usefixtures("jobs_in_this_process")
def test_a_stopped_trial_is_no_best_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "medians_by_epoch", lambda *_: {1: 1.1})
    data = tiny.write_folder(tmp_path / "data")
    words = ["sweep", "m2d_fusion", "--data", str(data), "--out", str(tmp_path / "out"), "--search", "random"]
    words += [word for setting in FIXED for word in ("--set", setting)] + ["--space", SPACE[0], "--budget", "1"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert "pruned epoch 1:" in (said := capsys.readouterr().out)
    assert "no trial was finished" in said
    assert not (tmp_path / "out" / "runs" / "trial001" / "done").exists()
    with pytest.raises(SystemExit) as ended:
        main([*words, "--select", "test_best"])
    assert ended.value.code == 2
    assert "--select does not go with --search" in capsys.readouterr().err

"""An engine that nobody asked for never keeps an answer back; one that was asked for fails with a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rales
from rales.errors import UsageError
from rales.export import artefact, engine_selection, parity, torch_export
from rales.export.load import load_with_engine
from rales.export.target import ExportTarget
from rales.files.writers import write_json
from rales.training import run_folder
from tests import tiny

ERRORS = {
    "value": ValueError("no such operator"),
    "runtime": RuntimeError("Exception from src/core.cpp:1\nstack"),
    "import": ModuleNotFoundError("No module named 'torch.onnx._decompositions'"),
    "memory": MemoryError(),
    "limit": OSError(27, "File too large"),
    "refused": PermissionError(13, "Permission denied"),
    "assertion": AssertionError(),
    "type": TypeError("export() got an unexpected keyword argument"),
    "other": type("Fail", (Exception,), {})("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION"),
}
MAKING = ("import", "trace", "make", "compile", "first answer")


def pairs(*steps: str) -> list[tuple[str, str]]:
    """Steps -> every step with one kind of error, and one step with every kind."""
    return [*((at, "runtime") for at in steps), *((steps[-1], kind) for kind in ERRORS if kind != "runtime")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("failures") / "model.safetensors"
    tiny.save(tiny.model(), path)
    return path


class Engines:
    """One format beside torch, made in no time and always the fastest, that fails at the step named in `at`."""

    def __init__(self, model: Path) -> None:
        self.at, self.error = "", Exception()
        self.torch_engine = rales.load(model).torch_engine
        self.said, self.answers = list[str](), 0

    def step(self, name: str) -> None:
        if self.at == name:
            raise self.error

    def answer(self, waves: np.ndarray) -> np.ndarray:
        self.answers += 1
        self.step("first answer" if self.answers == 1 else "later answer")
        return self.torch_engine(waves)

    def passing(self, name: str, value: Any = None) -> Callable[..., Any]:
        def passed(*_: Any, **__: Any) -> Any:
            self.step(name)
            return value

        return passed

    def save(self, graph: Any, out: Path, record: dict[str, Any]) -> list[Path]:
        self.step("save")
        write_json(out, record)
        return [out]

    def read(self, path: Path) -> tuple[Path, dict[str, Any]]:
        self.step("reopen")
        return path, run_folder.read_json(path)

    def load(self, model: Path, engine: str = "auto", recordings: int = 64) -> Any:
        return load_with_engine(model, engine, recordings=recordings, tell=self.said.append)


@pytest.fixture
def others(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    found = Engines(model)
    other = ExportTarget(
        name="other",
        suffix=".other",
        precisions=("float32",),
        packages={"numpy": "all"},
        make=found.passing("make"),
        compile=found.passing("compile", found.answer),
        save=found.save,
        read=found.read,
    )
    monkeypatch.setattr(artefact, "EXPORT_TARGETS", {"other": other})
    monkeypatch.setattr(engine_selection, "EXPORT_TARGETS", artefact.EXPORT_TARGETS)
    monkeypatch.setattr(torch_export, "trace_graph", found.passing("trace"))
    monkeypatch.setattr("rales.optional_packages.import_module", found.passing("import"), raising=False)
    times = {"torch": [0.02], "other": [0.01]}

    def race(turns: Any) -> dict[str, list[float]]:
        found.step("race")
        return {name: times[name] for name in turns}

    monkeypatch.setattr(engine_selection, "time_engines", race)
    monkeypatch.setattr(
        engine_selection, "time_in_own_process", lambda path, _: engine_selection.time_available_engines(path)
    )
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    return found


def answers_as_torch(model: Any, others: Engines) -> bool:
    clips = artefact.make_probe(model.recipe)
    return np.array_equal(model.probabilities(clips), others.torch_engine(clips))


def test_without_a_failure_the_other_engine_answers(others: Engines, model: Path) -> None:
    """Else the tests below would show nothing."""
    found = others.load(model)
    before = others.answers
    assert answers_as_torch(found, others)
    assert others.answers > before
    assert others.said[-1] == "engine other (torch 2.5, other 1.2 ms a cycle)"
    assert others.load(model, recordings=1).engine != found.torch_engine  # remembered


@pytest.mark.parametrize(("at", "kind"), [*pairs("save", "race", "later answer", *MAKING), ("save", "refused")])
def test_every_failure_of_the_search_leaves_torch_and_a_sentence(
    others: Engines, model: Path, at: str, kind: str
) -> None:
    others.at, others.error = at, ERRORS[kind]
    assert answers_as_torch(others.load(model), others)
    sentences = [said for said in others.said if "looking for" not in said and not said.startswith("engine torch")]
    sentences = [said for said in sentences if not said.startswith("engine other (")]
    assert len(sentences) == 1, others.said
    assert "\n" not in sentences[0]
    assert len(sentences[0].partition(": ")[2]) > 3  # the reason, also of an error without words


@pytest.mark.parametrize(("at", "kind"), [("reopen", "value"), ("reopen", "runtime"), ("compile", "import")])
def test_a_kept_engine_that_fails_is_made_again_or_left(others: Engines, model: Path, at: str, kind: str) -> None:
    others.load(model)
    others.at, others.error = at, ERRORS[kind]
    one = others.load(model, recordings=1)
    assert answers_as_torch(one, others)
    assert any("torch computes" in said for said in others.said) == (at == "compile")


def test_a_failure_that_may_pass_is_not_remembered(others: Engines, model: Path, tmp_path: Path) -> None:
    others.at, others.error = "make", MemoryError()
    others.load(model)
    others.at = ""
    found = others.load(model)
    assert found.engine != found.torch_engine


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"here": 1}', '{"ms": {"torch": "x"}, "here": {}}', "\xff"])
def test_a_damaged_memory_of_the_search_is_searched_again(
    others: Engines, model: Path, tmp_path: Path, content: str
) -> None:
    others.load(model)
    (memory,) = (tmp_path / "cache" / "engines").glob("*.json")
    memory.write_bytes(content.encode("latin-1"))
    found = others.load(model)
    assert found.engine != found.torch_engine


def test_a_cache_that_cannot_be_written_to_is_told_before_the_search(
    others: Engines, model: Path, tmp_path: Path
) -> None:
    """A file stands in its place, which stops root too."""
    (tmp_path / "cache").write_text("")
    found = others.load(model)
    assert found.engine == found.torch_engine
    assert len(others.said) == 1
    assert others.said[0].startswith("no faster engine can be had here, so torch computes: ")
    named = others.load(model, "other")
    assert named.engine != named.torch_engine
    assert others.said[-1].startswith("engine other could not be kept for the next command: ")


ENDINGS = {
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "says nothing": "",
    "never ends": "import threading; threading.Event().wait()",
    "says something else": "print('[]')",
    "fails": 'print(\'{"error": "no memory"}\')',
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_search_that_does_not_survive_leaves_torch_and_a_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setenv("RALES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_selection, "TIMING_PROGRAM", ENDINGS[ending])
    if ending == "never ends":
        monkeypatch.setattr(engine_selection, "TIMING_LIMIT_S", 1)
    said: list[str] = []
    found = load_with_engine(model, recordings=64, tell=said.append)
    assert found.engine == found.torch_engine
    assert len(said) == 2
    assert said[1].startswith("no faster engine can be had here, so torch computes: ")


@pytest.mark.parametrize(("at", "kind"), pairs(*MAKING, "later answer"))
def test_an_engine_that_was_asked_for_fails_with_a_sentence(others: Engines, model: Path, at: str, kind: str) -> None:
    others.at, others.error = at, ERRORS[kind]
    with pytest.raises((ValueError, OSError)) as failed:
        others.load(model, "other").probabilities(parity.make_probe_clips(32000, 16000))
    assert "\n" not in str(failed.value)
    assert (at == "import") == isinstance(failed.value, UsageError)
    if not isinstance(others.error, ValueError | OSError):
        assert type(others.error).__name__ in str(failed.value)


@pytest.mark.parametrize("at", [*MAKING, "save", "race", "later answer"])
def test_an_interrupt_ends_it_all_the_same(others: Engines, model: Path, at: str) -> None:
    others.at, others.error = at, KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        others.load(model).probabilities(parity.make_probe_clips(32000, 16000))

"""Things by name: those of this package, those that installed packages announce, those of a file, those of Python code.

A word of the command is looked up as a name of this package, as one that was registered in Python, as an entry point of
an installed package, or as `FILE.py:NAME`. Nothing is imported before it is asked for.
"""

import contextlib
import difflib
import hashlib
import importlib
import inspect
import logging
import os
import re
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from platformdirs import user_cache_path

from rales.errors import UsageError

Thing = TypeVar("Thing")
log = logging.getLogger(__name__)


class Registry(Generic[Thing]):
    """Things of one kind.

    Parameters
    ----------
    kind
        What one of them is called in a sentence: recipe.
    group
        Entry points of other packages: rales.recipes.
    built_in
        Name -> "module:attribute" in this package.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group, self.built_in = kind, group, built_in
        self.registered: dict[str, Thing] = {}

    def list_names(self) -> list[str]:
        """-> all names, those of this package first."""
        return list(dict.fromkeys([*self.built_in, *self.registered, *self.find_entry_points()]))

    def register(self, name: str, thing: Thing) -> None:
        """Make a thing of this process known under a name. Errors: a name of this package."""
        if name in self.built_in:
            raise UsageError(f"{self.kind} {name!r} is one of this package; choose another name")
        self.registered[name] = thing
        if file := find_source_file(thing):
            allow_content(file.read_bytes())

    def find(self, word: str) -> Thing:
        """Name, or FILE.py:NAME -> the thing; an unknown name is a UsageError with the nearest."""
        if word in self.built_in:
            return self.load(self.built_in[word])
        if word in self.registered:
            return self.registered[word]
        if (announced := self.find_entry_points().get(word)) is not None:
            return self.load_entry_point(announced)
        if found := split_file_word(word):
            path, name = found
            if not path.is_file():
                raise UsageError(f"{path}: no such file; expected the {self.kind} as FILE.py:NAME")
            content = path.read_bytes()
            thing = self.load_from_content(path, content, name)
            allow_content(content)
            return thing
        names = self.list_names()
        close = difflib.get_close_matches(word, names, n=1, cutoff=0.0)
        nearest = f"; the nearest is {close[0]!r} (known: {', '.join(names)}; or FILE.py:NAME)" if close else ""
        nearest = nearest or "; none is registered here or announced by a package, so expected FILE.py:NAME"
        raise UsageError(f"no {self.kind} {word!r}{nearest}")

    def describe_source(self, word: str) -> dict[str, str]:
        """Word that `find` knows -> where the thing is from, enough to find it again; {} for one of this package."""
        if word in self.built_in:
            return {}
        if word not in self.registered and (announced := self.find_entry_points().get(word)) is not None:
            package = announced.dist.name if announced.dist else announced.module
            return {"package": package, "version": announced.dist.version if announced.dist else "", "word": word}
        found = split_file_word(self.make_portable(word))
        if found is None:
            return {"module": str(getattr(self.find(word), "__module__", "")), "word": word}
        path, name = found
        return {"file": str(path), "name": name, "sha256": hash_file(path)}

    def make_portable(self, word: str) -> str:
        """Word -> one that another process, in another folder, finds the same thing by."""
        if word in self.registered:
            thing = self.registered[word]
            name, file = getattr(thing, "__qualname__", ""), find_source_file(thing)
            return f"{file}:{name}" if file and name.isidentifier() else word
        found = None if word in self.built_in else split_file_word(word)
        return f"{found[0]}:{found[1]}" if found else word

    def find_again(self, name: str, source: Mapping[str, str], origin: str) -> Thing:
        """Name and source in the record of `origin` -> the thing. Errors: a ValueError that says which file or package
        is missing, that the file is no longer the one of the record, or that no person has named it on this machine,
        since a stranger's run folder must run no code; then nothing of it is run."""
        for word, thing in self.registered.items():  # of this process, by whoever runs it
            known = self.describe_source(word)
            same = known.get("file") == source.get("file") or known.get("sha256") == source.get("sha256")
            if word in (name, source.get("word")) and ("file" not in source or same):
                return thing
            if "file" in source and (known.get("file"), known.get("name")) == (source["file"], source.get("name")):
                return thing

        made_by = f"{origin}: made by {self.kind} {name!r}"
        if not source:
            if name not in self.built_in:
                raise ValueError(f"{made_by}, which this version does not have")
            return self.find(name)
        if "file" in source:
            return self.load_recorded(Path(source["file"]), source, made_by)
        announced = self.find_entry_points().get(source.get("word", name))
        if announced is None:
            missing = source.get("package") or f"the module {source.get('module', '')}"
            way = "install it" if "package" in source else f"import it and register the {self.kind}"
            raise ValueError(f"{made_by} of {missing}, which is not here; {way}")
        here, then = announced.dist.version if announced.dist else "", source.get("version", "")
        if here != then:
            log.warning(
                "%s of %s %s, here is %s: its answers may be others", made_by, source.get("package"), then, here
            )
        return self.load_entry_point(announced)

    def find_entry_points(self) -> dict[str, EntryPoint]:
        return {found.name: found for found in entry_points(group=self.group)}

    def load(self, address: str) -> Thing:
        module, _, name = address.partition(":")
        thing: Thing = getattr(importlib.import_module(module), name)
        return thing

    def load_entry_point(self, announced: EntryPoint) -> Thing:
        try:
            thing: Thing = announced.load()
        except Exception as error:
            package = announced.dist.name if announced.dist else announced.value
            raise UsageError(f"{self.kind} {announced.name!r} of {package} cannot be loaded: {error}") from error
        return thing

    def load_recorded(self, path: Path, source: Mapping[str, str], made_by: str) -> Thing:
        """File of a record -> the thing in it. What is checked is what is run: the file is read once."""
        if not path.is_file():
            raise ValueError(f"{made_by} of {path}, which is not there; put that file back")
        content, name = path.read_bytes(), source.get("name", "")
        if hashlib.sha256(content).hexdigest() != source.get("sha256"):
            raise ValueError(
                f"{made_by} of {path}, which has changed since (its SHA-256 was {source.get('sha256', '')[:12]}…); "
                f"put that version back, or register the {self.kind} in Python"
            )
        if not is_allowed_content(content):
            registry = f"{self.kind.upper()}S"
            once = f"python -c 'from rales.registry import {registry}; {registry}.find(\"{path}:{name}\")'"
            raise ValueError(
                f"{made_by} of {path}, which is code that nobody has named here yet; read it, and if you trust it, "
                f"name it once: {f'rales train {path}:{name} --help' if self.kind == 'recipe' else once}"
            )
        return self.load_from_content(path, content, name)

    def load_from_content(self, path: Path, content: bytes, name: str) -> Thing:
        module = run_module(path, content)
        if not hasattr(module, name):
            raise UsageError(f"{path}: holds no {name!r}; expected the {self.kind} as FILE.py:NAME")
        thing: Thing = getattr(module, name)
        return thing


def find_source_file(thing: Any) -> Path | None:
    """Function or class -> the file that it is written in; None of a notebook's, and of what has none."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(thing))
    except TypeError:
        return None
    return Path(file).resolve() if file and Path(file).is_file() else None


def split_file_word(word: str) -> tuple[Path, str] | None:
    """`FILE.py:NAME` -> absolute path and name, None for any other word."""
    found = re.fullmatch(r"(.+\.py):(\w+)", word)
    return (Path(found[1]).expanduser().resolve(), found[2]) if found else None


def hash_file(path: Path) -> str:
    """File -> its SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allowed_mark(content: bytes) -> Path:
    """File's content -> where it is noted that a person has named such a file."""
    digits = hashlib.sha256(content).hexdigest()
    return Path(os.environ.get("RALES_CACHE") or user_cache_path("rales")).expanduser() / "named_files" / digits


def allow_content(content: bytes) -> None:
    """Note that a person has named a file of this content; without a place for the note it is named again next time."""
    with contextlib.suppress(OSError):
        mark = allowed_mark(content)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def is_allowed_content(content: bytes) -> bool:
    return allowed_mark(content).exists()


def run_module(path: Path, content: bytes) -> ModuleType:
    """Python file of this content -> its module, run once. Errors: whatever it raises, as a sentence.

    Compiled from what was read: the import system would take a compiled file beside it, whoever has put it there.
    """
    name = f"{path.stem}_{hashlib.sha256(str(path).encode() + content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # where dataclasses and pickle look for what it defines
    try:
        exec(compile(content, str(path), "exec"), module.__dict__)
    except Exception as error:
        sys.modules.pop(name, None)
        raise UsageError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


RECIPES: Registry[Any] = Registry(
    "recipe",
    "rales.recipes",
    {
        "m2d_fusion": "rales.recipes.m2d_fusion:recipe",
        "m2d_ntt": "rales.recipes.m2d_fusion:ntt_recipe",
        "lungrn_nl": "rales.recipes.lungrn_nl:recipe",
        "lungattn": "rales.recipes.lungattn:recipe",
        "wang_splice": "rales.recipes.wang_splice:recipe",
        "respirenet": "rales.recipes.respirenet:recipe",
        "arscnet": "rales.recipes.arscnet:recipe",
        "nguyen_cotuning": "rales.recipes.nguyen:cotuning",
        "nguyen_stochnorm": "rales.recipes.nguyen:stochnorm",
        "moummad_scl": "rales.recipes.moummad:scl",
        "moummad_mscl": "rales.recipes.moummad:mscl",
        "moummad_hybrid": "rales.recipes.moummad:hybrid",
        "moummad_ce": "rales.recipes.moummad:ce",
        "ast_ft": "rales.recipes.ast:fine_tuned",
        "ast_patchmix_cl": "rales.recipes.ast:patch_mix",
        "ast_sg_scl": "rales.recipes.ast:sg_scl",
        "beats_pafa": "rales.recipes.beats:recipe",
        "mn04_fusion": "rales.recipes.mn04_fusion:recipe",
        "encoder_fusion": "rales.recipes.encoder_fusion:recipe",
    },
)
READERS: Registry[Any] = Registry("reader", "rales.readers", {})
ENCODERS: Registry[Any] = Registry("encoder", "rales.encoders", {})
METRICS: Registry[Any] = Registry("metric", "rales.metrics", {})
EXPORT_TARGETS: Registry[Any] = Registry(
    "export target",
    "rales.export_targets",
    {"openvino": "rales.export.openvino:TARGET", "onnx": "rales.export.onnx:TARGET"},
)

"""Ways to damage a run folder: what somebody's disk, editor or script may have done to it.

Everything with a seal is sealed again afterwards, so that what is tested is what is made of the content, not the seal.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rales.files import seals

Damage = Callable[[Path], object]  # run folder -> anything
BEST, RESUME, EPOCHS = "best.safetensors", "resume.safetensors", "epochs.safetensors"
NESTED = "[" * 100_000 + "]" * 100_000


def sealed(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a checkpoint with a seal that is right."""
    save_file(tensors, path, metadata={**metadata, "sealed": seals.UNSEALED})
    seals.seal(path)


def stored(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
        metadata["rales"] = json.dumps(
            {name: value for name, value in json.loads(metadata["rales"]).items() if name != "seal"}
        )
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


def tensors(change: Callable[[dict[str, Tensor]], object], name: str = BEST) -> Damage:
    """Change of the tensors of a checkpoint -> damage."""

    def damage(run: Path) -> None:
        found, metadata = stored(run / name)
        change(found)
        sealed(run / name, found, metadata)

    return damage


def record(change: Callable[[dict[str, Any]], object], name: str = BEST) -> Damage:
    """Change of the record of a checkpoint -> damage."""

    def damage(run: Path) -> None:
        found, metadata = stored(run / name)
        about = json.loads(metadata["rales"])
        change(about)
        sealed(run / name, found, {**metadata, "rales": json.dumps(about)})

    return damage


def record_text(text: str | None, name: str = BEST) -> Damage:
    """Text (None: nothing) in place of the record of a checkpoint -> damage."""

    def damage(run: Path) -> None:
        sealed(run / name, stored(run / name)[0], {} if text is None else {"rales": text})

    return damage


def both(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change of the record of the best checkpoint and of config.json alike -> damage."""
    first, second = record(change), document("config.json", change)
    return lambda run: (first(run), second(run))


def document(name: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change of a JSON object -> damage."""

    def damage(run: Path) -> None:
        found = json.loads((run / name).read_text())
        change(found)
        (run / name).write_text(json.dumps(found))

    return damage


def lines(name: str, change: Callable[[list[dict[str, Any]]], object]) -> Damage:
    """Change of a file of JSON lines -> damage."""

    def damage(run: Path) -> None:
        found = [json.loads(line) for line in (run / name).read_text().splitlines()]
        change(found)
        (run / name).write_text("".join(json.dumps(line) + "\n" for line in found))

    return damage


def content(name: str, new: bytes | str) -> Damage:
    """Bytes in place of a file -> damage."""
    return lambda run: (run / name).write_bytes(new if isinstance(new, bytes) else new.encode())


def replaced(name: str, old: str, new: str, times: int = -1) -> Damage:
    """Words of a text file -> others."""

    def damage(run: Path) -> None:
        text = (run / name).read_text()
        assert old in text
        (run / name).write_text(text.replace(old, new, times))

    return damage


def cut(name: str, share: float) -> Damage:
    """A file that ends early."""
    return lambda run: os.truncate(run / name, int((run / name).stat().st_size * share))


def gone(name: str) -> Damage:
    return lambda run: (run / name).unlink()


def instead(name: str, make: Callable[[Path], object]) -> Damage:
    """Something that is no file in place of one."""

    def damage(run: Path) -> None:
        (run / name).unlink()
        make(run / name)

    return damage


def section(name: str, **values: Any) -> Callable[[dict[str, Any]], object]:
    """Part of the settings and values in it -> change of a record."""
    return lambda about: about["config"].setdefault(name, {}).update(values)


def one_value(value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda found: found[max(found)].view(-1)[:1].fill_(value)


def odd_files(name: str) -> dict[str, Damage]:
    """A file -> what may stand there instead of what is to be there."""
    return {
        f"{name} cut": cut(name, 0.6),
        f"{name} empty": content(name, b""),
        f"{name} other bytes": content(name, b"\xff\xfe\x00\x01" * 50),
        f"{name} folder": instead(name, Path.mkdir),
        f"{name} pipe": instead(name, os.mkfifo),
        f"{name} link to itself": instead(name, lambda path: path.symlink_to(path.name)),
    }


def odd_json(name: str) -> dict[str, Damage]:
    """A file of one JSON object -> the same, and what no reader of JSON should be given."""
    return {
        **odd_files(name),
        f"{name} list": content(name, "[]"),
        f"{name} nothing in it": content(name, "{}"),
        f"{name} nested": content(name, NESTED),
        f"{name} nested a little": content(name, '{"a":' * 900 + "1" + "}" * 900),
        f"{name} half a character": content(name, '{"recipe": "\\ud800"}'),
        f"{name} number of 5000 digits": content(name, '{"seed": ' + "9" * 5000 + "}"),
        f"{name} infinite": content(name, '{"seed": 1e999}'),
        f"{name} NaN": content(name, '{"seed": NaN}'),
        f"{name} name twice": content(name, '{"recipe": "m2d_fusion", "recipe": "ast_ft"}'),
    }


CONFIG: dict[str, Damage] = {
    **odd_json("config.json"),
    "config.json gone": gone("config.json"),
    "config.json no recipe": document("config.json", lambda d: d.pop("recipe")),
    "config.json unknown recipe": document("config.json", lambda d: d.update(recipe="future_net")),
    "config.json recipe is a list": document("config.json", lambda d: d.update(recipe=["m2d_fusion"])),
    "config.json unknown setting": document("config.json", lambda d: d["config"].update(future={"a": 1})),
    "config.json depth in words": document("config.json", section("model", depth="three")),
    "config.json other length": document("config.json", section("audio", duration_s=7.0)),
    "config.json no settings": document("config.json", lambda d: d.pop("config")),
    "config.json settings list": document("config.json", lambda d: d.update(config=[1])),
    "config.json split list": document("config.json", lambda d: d.update(split=[1])),
    "config.json no split": document("config.json", lambda d: d.pop("split")),
    "config.json recipe source list": document("config.json", lambda d: d.update(recipe_source=["size"])),
    "config.json seed in words": document("config.json", lambda d: d.update(seed="zero")),
    "config.json computed in words": document("config.json", lambda d: d.update(computed_in="float32")),
    "config.json no computed in": document("config.json", lambda d: d.pop("computed_in")),
}

CHECKPOINT: dict[str, Damage] = {
    **odd_files(BEST),
    f"{BEST} gone": gone(BEST),
    f"{BEST} giant head": content(BEST, struct.pack("<Q", 1 << 40) + b"{}"),
    f"{BEST} head of 99 MB": content(BEST, struct.pack("<Q", 99_000_000) + b" " * 99_000_000),
    f"{BEST} nested head": content(BEST, struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995),
    f"{BEST} weights NaN": tensors(lambda t: [v.fill_(float("nan")) for v in t.values()]),
    f"{BEST} one infinite": tensors(one_value(float("inf"))),
    f"{BEST} tensor gone": tensors(lambda t: t.pop(min(t))),
    f"{BEST} one tensor more": tensors(lambda t: t.update(more=torch.zeros(3))),
    f"{BEST} other shape": tensors(lambda t: t.update({min(t): torch.zeros(1, 2, 3)})),
    f"{BEST} whole numbers": tensors(lambda t: t.update({k: v.long() for k, v in t.items()})),
    f"{BEST} doubles": tensors(lambda t: t.update({k: v.double() for k, v in t.items()})),
    f"{BEST} bfloat16": tensors(lambda t: t.update({k: v.bfloat16() for k, v in t.items()})),
    f"{BEST} no record": record_text(None),
    f"{BEST} record no JSON": record_text("{bad"),
    f"{BEST} record list": record_text("[]"),
    f"{BEST} record empty": record_text("{}"),
    f"{BEST} record null": record_text("null"),
    f"{BEST} record nested": record_text(NESTED),
    f"{BEST} record half a character": record_text('{"recipe": "\\udfff"}'),
    f"{BEST} no classes": record(lambda d: d.pop("classes")),
    f"{BEST} two classes": record(lambda d: d.update(classes=["a", "b"])),
    f"{BEST} classes turned": record(lambda d: d.update(classes=["both", "wheeze", "crackle", "normal"])),
    f"{BEST} classes a number": record(lambda d: d.update(classes=5)),
    f"{BEST} no epoch": record(lambda d: d.pop("epoch")),
    f"{BEST} epoch in words": record(lambda d: d.update(epoch="last")),
    f"{BEST} no split": record(lambda d: d.pop("split")),
    f"{BEST} split a list": record(lambda d: d.update(split=["official"])),
    f"{BEST} temperature 0": record(lambda d: d.update(calibration={"temperature": 0.0})),
    f"{BEST} temperature negative": record(lambda d: d.update(calibration={"temperature": -1.0})),
    f"{BEST} temperature in words": record(lambda d: d.update(calibration={"temperature": "hot"})),
    f"{BEST} temperature NaN": record(lambda d: d.update(calibration={"temperature": float("nan")})),
    f"{BEST} temperature tiny": record(lambda d: d.update(calibration={"temperature": 1e-300})),
    f"{BEST} calibration list": record(lambda d: d.update(calibration=[1])),
    f"{BEST} rate 0": both(section("audio", rate_hz=0)),
    f"{BEST} rate negative": both(section("audio", rate_hz=-1)),
    f"{BEST} rate 1": both(section("audio", rate_hz=1)),
    f"{BEST} rate of a million": both(section("audio", rate_hz=10**6)),
    f"{BEST} rate not the run's": record(section("audio", rate_hz=8000)),
    f"{BEST} a year long": both(section("audio", duration_s=1e9)),
    f"{BEST} nearly no length": both(section("audio", duration_s=1e-9)),
    f"{BEST} length NaN": record(section("audio", duration_s=float("nan"))),
    f"{BEST} long and fast": both(section("audio", duration_s=600, rate_hz=192_000)),
    f"{BEST} unknown front-end": both(section("audio", frontend="other")),
    f"{BEST} deviation 0": both(section("audio", std=0.0)),
    f"{BEST} depth of 10^9": both(section("model", depth=10**9)),
    f"{BEST} depth of 128": both(section("model", depth=128)),
    f"{BEST} width of 10^6": both(section("model", dim=10**6)),
    f"{BEST} width of 60000": both(section("model", dim=60_000)),
    f"{BEST} no heads": both(section("model", heads=0)),
    f"{BEST} seven heads": both(section("model", heads=7)),
    f"{BEST} patch of 0": both(section("model", patch=[0, 16])),
    f"{BEST} patch of one number": both(section("model", patch=[16])),
    f"{BEST} patch too high": both(section("model", patch=[160, 16])),
    f"{BEST} layer 999": both(section("model", layers=[999])),
    f"{BEST} no layers": both(section("model", layers=[])),
    f"{BEST} 100000 layers": both(section("model", layers=list(range(1, 100_001)))),
    f"{BEST} layers in words": both(section("model", layers=["one"])),
    f"{BEST} unknown layout": both(section("model", layout="round")),
    f"{BEST} weights elsewhere": record(lambda d: d["config"].update(weights="/etc/passwd")),
    f"{BEST} weights on a server": record(lambda d: d["config"].update(weights="http://127.0.0.1:1/x")),
    f"{BEST} another recipe": both(lambda d: d.update(recipe="lungattn")),
    f"{BEST} recipe of a file": both(lambda d: d.update(recipe="x", recipe_source={"file": "/etc/passwd"})),
    f"{BEST} recipe of a number": both(lambda d: d.update(recipe="x", recipe_source={"file": __file__, "sha256": 5})),
    f"{BEST} recipe of a package": both(lambda d: d.update(recipe="x", recipe_source={"package": "os"})),
    f"{BEST} recipe of code": both(lambda d: d.update(recipe="os.system")),
    f"{BEST} recipe a list": both(lambda d: d.update(recipe=[])),
    f"{BEST} no settings": record(lambda d: d.pop("config")),
    f"{BEST} settings list": both(lambda d: d.update(config=[])),
    f"{BEST} section list": both(lambda d: d["config"].update(audio=[])),
    f"{BEST} size a number": both(lambda d: d["config"].update(size=5)),
    f"{BEST} variant none knows": both(lambda d: d["config"].update(variant="round")),
    f"{BEST} unknown setting": both(section("audio", future=1)),
}

TABLES: dict[str, Damage] = {
    **odd_files("metrics.jsonl"),
    "metrics.jsonl gone": gone("metrics.jsonl"),
    "metrics.jsonl bad line": lambda run: content("metrics.jsonl", "{bad\n" + (run / "metrics.jsonl").read_text())(run),
    "metrics.jsonl list": content("metrics.jsonl", "[1]\n"),
    "metrics.jsonl no epoch": content("metrics.jsonl", '{"a": 1}\n'),
    "metrics.jsonl nested": content("metrics.jsonl", NESTED + "\n"),
    "metrics.jsonl epoch in words": lines("metrics.jsonl", lambda found: found[0].update(epoch="one")),
    "metrics.jsonl score NaN": lines("metrics.jsonl", lambda found: found[-1].update(score=float("nan"))),
    "metrics.jsonl score in words": lines("metrics.jsonl", lambda found: found[-1].update(score="high")),
    "metrics.jsonl score 7": lines("metrics.jsonl", lambda found: found[-1].update(score=7.0)),
    "metrics.jsonl split a list": lines("metrics.jsonl", lambda found: found[-1].update(split=["test"])),
    **odd_files("predictions.csv"),
    "predictions.csv other columns": content("predictions.csv", "a,b\n1,2\n"),
    "predictions.csv NaN": replaced("predictions.csv", "0.", "nan", 5),
    "predictions.csv text": replaced("predictions.csv", "0.", "x", 5),
    "predictions.csv label": replaced("predictions.csv", "normal,0", "rhonchus,0", 1),
    "predictions.csv twice": lambda run: content(
        "predictions.csv", "".join([*(found := (run / "predictions.csv").read_text().splitlines(True))[:-1], found[1]])
    )(run),
    **odd_json("evaluation.json"),
    "evaluation.json gone": gone("evaluation.json"),
    "evaluation.json score in words": document("evaluation.json", lambda d: d.update(score="high")),
    "evaluation.json score of another": document("evaluation.json", lambda d: d.update(score=0.99)),
    "evaluation.json confusion": document("evaluation.json", lambda d: d.update(confusion=[[1]])),
    "evaluation.json warnings": document("evaluation.json", lambda d: d.update(warnings="none")),
    "evaluation.json protocol": document("evaluation.json", lambda d: d.update(protocol=[])),
    **odd_json("layer_weights.json"),
    "layer_weights.json NaN": content("layer_weights.json", '{"layers":[1,2],"normalised":[NaN,1]}'),
    "layer_weights.json words": content("layer_weights.json", '{"layers":[[1],[2]],"normalised":["a","b"]}'),
    **odd_files(EPOCHS),
    f"{EPOCHS} epochs turned": tensors(lambda t: t.update(epoch=t["epoch"].flip(0).contiguous()), EPOCHS),
    f"{EPOCHS} fewer cycles": tensors(lambda t: t.update(test=t["test"][:, 1:].contiguous()), EPOCHS),
    f"{EPOCHS} fewer epochs": tensors(lambda t: t.update(test=t["test"][1:].contiguous()), EPOCHS),
    f"{EPOCHS} NaN": tensors(one_value(float("nan")), EPOCHS),
    f"{EPOCHS} five classes": tensors(lambda t: t.update(test=torch.zeros(len(t["epoch"]), 12, 5).half()), EPOCHS),
    f"{EPOCHS} no epoch": tensors(lambda t: t.pop("epoch"), EPOCHS),
    f"{EPOCHS} flat": tensors(lambda t: t.update(test=t["test"].flatten()), EPOCHS),
    f"{EPOCHS} layers": tensors(lambda t: t.update(layers=torch.zeros(7, dtype=torch.int64)), EPOCHS),
    f"{EPOCHS} one more": tensors(lambda t: t.update(more=torch.zeros(1)), EPOCHS),
}

STATE: dict[str, Damage] = {
    **odd_files(RESUME),
    f"{RESUME} no state": record(lambda d: d.pop("state"), RESUME),
    f"{RESUME} state list": record(lambda d: d.update(state=[]), RESUME),
    f"{RESUME} state empty": record(lambda d: d.update(state={}), RESUME),
    f"{RESUME} epoch in words": record(lambda d: d["state"].update(epoch="two"), RESUME),
    f"{RESUME} epoch negative": record(lambda d: d["state"].update(epoch=-1), RESUME),
    f"{RESUME} epoch 10^6": record(lambda d: d["state"].update(epoch=10**6), RESUME),
    f"{RESUME} record list": record_text("[]", RESUME),
    f"{RESUME} of another seed": record(lambda d: d.update(seed=9), RESUME),
    f"{RESUME} of other settings": record(lambda d: d["config"].update(seed=9), RESUME),
    f"{RESUME} weights NaN": tensors(lambda t: t[weight_of(t)].fill_(float("nan")), RESUME),
    f"{RESUME} weight gone": tensors(lambda t: t.pop(weight_of(t)), RESUME),
    f"{RESUME} moment NaN": tensors(lambda t: t[moment_of(t)].fill_(float("nan")), RESUME),
    f"{RESUME} moment gone": tensors(lambda t: t.pop(moment_of(t)), RESUME),
    f"{RESUME} moment other shape": tensors(lambda t: t.update({moment_of(t): torch.zeros(3)}), RESUME),
    f"{RESUME} moment of no weight": tensors(lambda t: t.update({f"{moment_of(t)}.x.y": torch.zeros(1)}), RESUME),
    f"{RESUME} moment of another": tensors(
        lambda t: t.update({moment_of(t).replace(".0.", ".99999999."): torch.zeros(1)}), RESUME
    ),
}


def weight_of(found: dict[str, Tensor]) -> str:
    return min(name for name in found if not name.startswith("optimiser."))


def moment_of(found: dict[str, Tensor]) -> str:
    return min(name for name in found if name.startswith("optimiser.") and name.endswith(".exp_avg"))


def damaged(source: Path, target: Path, damage: Damage) -> Path:
    """Run folder -> a copy of it with one thing wrong."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    damage(target)
    return target

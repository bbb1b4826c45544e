"""Share a trained model on the hub: its checkpoint, and a model card written from what the run recorded."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rales.errors import UsageError
from rales.evaluation.predictions import NOTICE
from rales.files.atomic import temporary_folder
from rales.inference.predictor import Predictor
from rales.models.hub import check_connection
from rales.models.model_hub import CHECKPOINT, SCHEME, client_error, hub_address, is_on_hub, split_name
from rales.optional_packages import require_packages
from rales.training.finetune import tensors_of
from rales.training.run_folder import read_json, save_tensors

WITH_PATHS = ("config", "asked", "overrides", "recipe_source")  # of a record
NAMING = ("overlap_patients", "left_out")  # of its split: patients, and sentences with names of files
CHOSEN = {  # train.select -> how the card says it
    "last": "the last",
    "validation": "chosen on validation patients",
    "test_best": "chosen on the test side, so the figures flatter",
}


def push_to_hub(model: Predictor, name: str, *, private: bool = True, licence: str = "", note: str = "") -> str:
    """Put a model on the hub, for whom it is opened -> its address there; parameters as of `Predictor.push_to_hub`."""
    require_packages("push_to_hub", "hub", "huggingface_hub")
    from huggingface_hub import HfApi

    repository, revision = split_name(name)
    if revision is not None:
        raise UsageError(f"{name}: a model is put on the main branch; leave @{revision} out")
    api = HfApi(endpoint=hub_address())
    otherwise = "nothing was put there; try again later"
    check_connection(api.endpoint, otherwise)
    engine = model.torch_engine
    with temporary_folder() as folder:
        save_tensors(folder / CHECKPOINT, tensors_of(engine.network, engine.frontend), clean_record(model.record))
        (folder / "README.md").write_text(write_model_card(model, repository, licence=licence, note=note))
        try:
            api.create_repo(repository, private=private, exist_ok=True)
        except client_error() as error:
            if isinstance(error, OSError):  # an answer of the hub, which says why
                raise
            raise ConnectionError(f"no connection to {api.endpoint} ({error}); {otherwise}") from error
        if private and not api.repo_info(repository).private:  # which was there before
            raise UsageError(
                f"{name}: is on the hub already and not private, so nothing was put there; make it private on the "
                "hub, name another, or say private=False"
            )
        ours = ["README.md", CHECKPOINT]  # not the folder's lock
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=ours, commit_message="A model of Rales"
        )
    return f"{SCHEME}{repository}"


def clean_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Record of a run -> the same for strangers: no command line, of paths the last part, and of what names patients or
    files how many there were (`overlap_patients_count`, `left_out_count`)."""
    split = dict(record.get("split", {}))
    for name in NAMING:
        if name in split:
            split |= {name: [], f"{name}_count": len(split[name])}
    shortened = {name: shorten_paths(record[name]) for name in WITH_PATHS if name in record}
    return {**record, **shortened, "command": "", **({"split": split} if split else {})}


def shorten_paths(value: Any) -> Any:
    """JSON value -> the same, each path in it without its folders; addresses on a hub and names of encoders stay."""
    if isinstance(value, Mapping):
        shortened = {name: shorten_paths(each) for name, each in value.items()}
        if "architecture" in value:  # of a named encoder, from which the network is built again
            shortened["architecture"] = value["architecture"]
            shortened["encoder"] = shorten_encoder(value["encoder"], is_folder=not value["revision"])
        return shortened
    if isinstance(value, list | tuple):
        return [shorten_paths(each) for each in value]
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if isinstance(value, str) and not is_on_hub(value) else value


def shorten_encoder(word: str, *, is_folder: bool) -> str:
    """`timm/NAME` or `hf/NAME` -> the same; of `hf/FOLDER`, which alone has no revision, the folder's last part."""
    return f"hf/{shorten_paths(word)}" if word.startswith("hf/") and is_folder else word


def write_model_card(model: Predictor, repository: str, *, licence: str = "", note: str = "") -> str:
    """Model, its name on the hub -> the text of its README.md: metadata, use, training, figures, limits."""
    head = ["---", "library_name: rales", "pipeline_tag: audio-classification"]
    head += [f"license: {licence}"] if licence else []
    head += ["tags:", "- respiratory-sounds", "- auscultation", "---"]
    train, split = model.record["config"].get("train", {}), model.record.get("split", {})
    facts = {
        "system": model.recipe.name,
        "classes": ", ".join(model.classes),
        "hears": f"{model.recipe.audio.duration_s:g} s at {model.recipe.audio.rate_hz} Hz",
        "epochs": train.get("epochs", "unknown"),
        "epoch kept": CHOSEN.get(train.get("select", ""), "unknown"),
        "seed": model.record.get("seed", "unknown"),
        "split": split.get("name", "unknown"),
        "calibrated on": model.calibration.get("origin", "nothing"),
        "made by": f"Rales {model.record.get('versions', {}).get('rales', 'of unknown version')}",
    }
    lines = [*head, "", f"# {repository}", "", f"**{NOTICE}** No output may guide treatment.", ""]
    lines += [note, ""] if note else []
    lines += ["```python", "import rales", "", f'model = rales.load("{SCHEME}{repository}")']
    lines += ['print(model.predict("recording.wav"))', "```", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join([*lines, "", *describe_figures(model.checkpoint), ""])


def describe_figures(checkpoint: Path | None) -> list[str]:
    """Checkpoint of a run folder -> lines about its test; without one, that there are none."""
    file = checkpoint.parent / "evaluation.json" if checkpoint is not None else None
    if file is None or checkpoint.name != "best.safetensors" or not file.is_file():  # type: ignore[union-attr]
        return ["No figures of a test came with this model."]
    found: dict[str, Any] = read_json(file)
    lines = ["| on its test side | per cent | 95 % interval, patients resampled |", "|---|---|---|"]
    for name in ("specificity", "sensitivity", "score"):
        low, high = (found.get("ci95") or {}).get(name) or (None, None)
        interval = "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
        lines.append(f"| {name} | {100 * found[name]:.1f} | {interval} |")
    lines += ["", "Calling every cycle normal has specificity 100, sensitivity 0 and Score 50."]
    return lines + [line for warning in found.get("warnings", []) for line in ("", f"**Warning:** {warning}.")]

"""Trained models on a hub of Hugging Face's kind: `hf://user/name`, which `rales.load` takes and `push_to_hub` fills.

Only the checkpoint is fetched, which is numbers and a record: nothing of a stranger is run. HF_ENDPOINT names another
hub than huggingface.co, HF_TOKEN opens private models, HF_HUB_OFFLINE=1 takes what was fetched before.
"""

import os
import re
from pathlib import Path

from rales.errors import UsageError
from rales.optional_packages import require_packages

SCHEME = "hf://"
CHECKPOINT = "model.safetensors"
NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_on_hub(word: str | Path | None) -> bool:
    """Whether it names a model on the hub."""
    return isinstance(word, str) and word.startswith(SCHEME)


def split_name(word: str) -> tuple[str, str | None]:
    """`hf://user/name` or `hf://user/name@revision` -> "user/name" and the revision. Errors: another form."""
    found = NAME.fullmatch(word.removeprefix(SCHEME))
    if found is None:
        raise UsageError(f"{word}: expected hf://USER/NAME, or hf://USER/NAME@REVISION for a branch, tag or commit")
    return found[1], found[2]


def hub_address() -> str | None:
    """-> the hub to ask, None for that of huggingface_hub."""
    return os.environ.get("HF_ENDPOINT")


def fetch_model(word: str) -> Path:
    """`hf://user/name` -> its checkpoint in the cache of huggingface_hub.

    Raises
    ------
    UsageError
        Another form of name; huggingface_hub (extra `hub`) is not installed.
    FileNotFoundError
        There is no such model, it holds no model of Rales, or the hub is out of reach.
    """
    repository, revision = split_name(word)
    require_packages(word, "hub", "huggingface_hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(hf_hub_download(repository, CHECKPOINT, revision=revision, endpoint=hub_address()))
    except RepositoryNotFoundError:
        sentence = "there is no such model, or it is private and HF_TOKEN does not open it"
    except LocalEntryNotFoundError:
        sentence = "it was not fetched before, and the hub is out of reach"
    except EntryNotFoundError:
        sentence = f"it has no {CHECKPOINT}, so it is no model of Rales"
    except (HfHubHTTPError, OSError) as error:
        sentence = f"the hub is out of reach ({type(error).__name__})"
    raise FileNotFoundError(f"{word}: {sentence}")

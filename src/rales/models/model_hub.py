"""Trained models on a hub of Hugging Face's kind: `hf://user/name`, which `rales.load` takes and `push_to_hub` fills.

Only the checkpoint is fetched, which is numbers and a record: nothing of a stranger is run. HF_ENDPOINT names another
hub than huggingface.co, HF_TOKEN opens private models, HF_HUB_OFFLINE=1 takes what was fetched before.
"""

import os
import re
from pathlib import Path

from rales.errors import UsageError
from rales.models.hub import check_connection
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
    """-> the hub to ask, None for that of huggingface_hub. Errors: an HF_ENDPOINT that is no web address."""
    address = os.environ.get("HF_ENDPOINT") or None
    if address is not None and not address.startswith(("http://", "https://")):
        raise UsageError(f"HF_ENDPOINT={address}: expected an address that begins with https:// or http://")
    return address


def is_within_reach(address: str | None) -> bool:
    """Hub (None: that of huggingface_hub) -> whether it answers, found out within seconds."""
    from huggingface_hub import constants

    try:
        if not constants.HF_HUB_OFFLINE:
            check_connection(address or constants.ENDPOINT, "try again later")
    except ConnectionError:
        return False
    return not constants.HF_HUB_OFFLINE


def fetch_model(word: str) -> Path:
    """`hf://user/name` -> its checkpoint in the cache of huggingface_hub.

    Raises
    ------
    UsageError
        Another form of name, also of HF_ENDPOINT; huggingface_hub (extra `hub`) is not installed.
    FileNotFoundError
        There is no such model or revision, it holds no model of Rales, or the hub is out of reach.
    """
    repository, revision = split_name(word)
    require_packages(word, "hub", "huggingface_hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    address = hub_address()
    try:
        kept = not is_within_reach(address)
        return Path(hf_hub_download(repository, CHECKPOINT, revision=revision, endpoint=address, local_files_only=kept))
    except RepositoryNotFoundError:
        sentence = "there is no such model, or it is private and HF_TOKEN does not open it"
    except RevisionNotFoundError:
        sentence = f"it has no branch, tag or commit {revision or 'main'}"
    except LocalEntryNotFoundError as error:  # what kept it from being fetched is behind it
        sentence = "it was not fetched before, and " + (describe_answer(error.__cause__) or "the hub is out of reach")
    except EntryNotFoundError:
        sentence = f"it has no {CHECKPOINT}, so it is no model of Rales"
    except (client_error(), OSError) as error:
        sentence = describe_answer(error) or f"the hub is out of reach ({type(error).__name__})"
    raise FileNotFoundError(f"{word}: {sentence}")


def client_error() -> type[Exception]:
    """-> what the HTTP client of huggingface_hub raises, of a proxy too: HTTPError of httpx or of httpx2."""
    from huggingface_hub import errors

    error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return error


def describe_answer(error: BaseException | None) -> str:
    """Error of huggingface_hub -> that the hub answered, and how; "" if it did not."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return "" if status is None else f"the hub answered with HTTP status {status}"

"""Public checkpoints by name: which there are, fetching one into the user's cache folder, finding it again.

Those of M2D are zips whose publisher states no sizes and no SHA-256, so trust starts at first use: the first good
download writes `NAME.json` (address, size and SHA-256 of it, SHA-256 of every checkpoint in it) beside the folder
`NAME/`. Where a SHA-256 is known, the first one must have it, too.
Every later download must agree with it, and so must the unpacked checkpoint whenever it is used.
"""

import difflib
import hashlib
import json
import os
import shutil
import socket
import stat
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import platformdirs

from rales.files.atomic import Lock, atomic_write, own_folder, remove_abandoned, sync_folder, sync_tree
from rales.files.json_files import read_json
from rales.progress import progress_bar

if TYPE_CHECKING:
    import requests

NTT_LICENCE = "NTT's own (LICENSE.pdf of nttcslab/m2d), not an open-source licence: read it before use"
CHECKPOINT_SUFFIXES = {".pth", ".pt", ".ckpt", ".safetensors"}
TEXT_SUFFIXES = {".txt", ".md", ".json", ".yaml", ".yml", ".csv", ".log"}
UNPACKED_LIMIT_BYTES = 4 * 2**30  # a full ViT-base checkpoint with optimiser state is about 1.6 GB
CHUNK_BYTES = 2**20
TIMEOUT_S = 30.0
CONNECT_S = 5.0
RETRIES = 3  # of a server that was there, and is out of reach or busy for a moment
PASSING_STATUS = {408, 429, 500, 502, 503, 504}
SHIPPED = {name: Path(__file__).parents[1] / "default" / f"{name}.safetensors" for name in ("rales", "rales-mn04")}
"""The models that come with the package, the default first. A name of theirs is never taken for a file or folder."""
GRAPHS = {"rales": SHIPPED["rales"].with_suffix(".onnx")}
"""Those that answer without PyTorch, and their artefacts."""
DEFAULT_MODEL = "rales"
ELSEWHERE = "download it elsewhere and give the file to `rales weights NAME --file FILE`"


@dataclass(frozen=True)
class PublicCheckpoint:
    """One zip, or one bare checkpoint, of a publisher; size and SHA-256 are None while no source states them."""

    name: str
    address: str
    note: str
    size_bytes: int | None = None
    sha256: str | None = None
    licence: str = NTT_LICENCE

    @property
    def is_bare(self) -> bool:
        """Whether the address is that of the checkpoint itself, not of a zip around it."""
        return PurePosixPath(self.address).suffix in CHECKPOINT_SUFFIXES


def _m2d_checkpoint(release: str, name: str, note: str) -> PublicCheckpoint:
    return PublicCheckpoint(name, f"https://github.com/nttcslab/m2d/releases/download/{release}/{name}.zip", note)


# "full" has target and predictor too, so that pre-training can go on; "encoder only" is enough for everything else.
PUBLIC: dict[str, PublicCheckpoint] = {
    public.name: public
    for public in (
        _m2d_checkpoint("v0.1.0", "m2d_vit_base-80x608p16x16-221006-mr7", "AudioSet, mask ratio 0.7, full"),
        _m2d_checkpoint("v0.1.0", "m2d_vit_base-80x608p16x16-221006-mr6", "AudioSet, mask ratio 0.6, full"),
        _m2d_checkpoint(
            "v0.1.0", "m2d_vit_base-80x608p16x16-221006-mr7_enconly", "AudioSet, mask ratio 0.7, encoder only"
        ),
        _m2d_checkpoint(
            "v0.1.0", "m2d_vit_base-80x608p16x16-220930-mr7_enconly", "the same, trained earlier, encoder only"
        ),
        _m2d_checkpoint(
            "v0.1.0", "m2d_vit_base-80x200p16x4-230529", "AudioSet, mask ratio 0.7, patches of 4 frames, full"
        ),
        _m2d_checkpoint(
            "v0.1.0", "m2d_as_vit_base-80x608p16x16-240213", "M2D-AS (M2D-X specialised in AudioSet), full"
        ),
        _m2d_checkpoint(
            "v0.3.0",
            "m2d_as_vit_base-80x1001p16x16-240213_AS-FT_enconly",
            "M2D-AS fine-tuned for AudioSet tagging (mAP 0.485), units of 1001 frames, encoder only",
        ),
        _m2d_checkpoint(
            "v0.3.0",
            "m2d_vit_base-80x1001p16x16-221006-mr7_as_46ab246d",
            "mask ratio 0.7 fine-tuned for AudioSet tagging (mAP 0.479), units of 1001 frames, encoder only",
        ),
        PublicCheckpoint(
            "m2d_vit_base-80x608p16x16p16k-250826-AS+Resp400K",
            "https://github.com/nttcslab/eval-audio-repr/releases/download/0.1.0/"
            "m2d_vit_base-80x608p16x16p16k-250826-AS+Resp400K.zip",
            "M2D+Resp: mr7 trained further on AudioSet, CoughVID, HF_Lung and the ICBHI recordings of the official "
            "training split (so it has heard parts of any other split or fold), encoder only",
            licence="see LICENSE of nttcslab/eval-audio-repr",
        ),
        PublicCheckpoint(
            "mn04_as",
            "https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1/mn04_as_mAP_432.pt",
            "EfficientAT, MobileNetV3 of width 0.4 taught AudioSet tagging by PaSST (mAP 0.432), for mn04_fusion",
            sha256="899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
            licence="MIT (Copyright (c) 2022 Florian Schmid)",
        ),
    )
}
ALIASES = {
    "mr7": "m2d_vit_base-80x608p16x16-221006-mr7",
    "mr6": "m2d_vit_base-80x608p16x16-221006-mr6",
    "resp": "m2d_vit_base-80x608p16x16p16k-250826-AS+Resp400K",
}


def list_checkpoints() -> list[dict[str, Any]]:
    """Nothing -> one row per public checkpoint: name, alias, address, size_bytes, sha256, note, licence, path.

    Size and SHA-256 are those of the zip or bare file, None until somebody stated or this machine recorded them; `path`
    is the checkpoint in the cache (the folder if it holds several) or None.
    """
    rows = []
    for public in PUBLIC.values():
        record, found = _read_record(public.name), _checkpoints_in(checkpoint_folder() / public.name)
        rows.append(
            {
                "name": public.name,
                "alias": next((alias for alias, name in ALIASES.items() if name == public.name), None),
                "address": public.address,
                "size_bytes": public.size_bytes or record.get("size_bytes"),
                "sha256": public.sha256 or record.get("sha256"),
                "note": public.note,
                "licence": public.licence,
                "path": (found[0] if len(found) == 1 else found[0].parent) if found else None,
            }
        )
    return rows


def checkpoint_folder() -> Path:
    """Where fetched checkpoints live: `weights` in the user's cache folder for rales, or in RALES_CACHE if set."""
    return Path(os.environ.get("RALES_CACHE") or platformdirs.user_cache_path("rales")).expanduser() / "weights"


def find_checkpoint(name_or_path: str | Path) -> Path:
    """A file, a run folder or another that holds one checkpoint, the name of a model that ships or of a fetched
    public checkpoint -> the checkpoint file; of a fine-tuning run the best, of a pre-training the last.

    Raises FileNotFoundError for a public name that is not on this machine and for anything unknown; ValueError for an
    unfinished run, a folder that holds no or several checkpoints, a zip, and a fetched file that differs from its
    first download.
    """
    if (shipped := SHIPPED.get(str(name_or_path))) and shipped.is_file():
        return shipped
    path = Path(name_or_path).expanduser()
    if path.is_file():
        if path.suffix == ".zip":
            raise ValueError(f"{path}: a zip, expected a checkpoint; unpack it and pass the file or folder inside")
        return _check_undamaged(path)
    if path.is_dir():
        return _checkpoint_of_run(path) or _check_undamaged(_only_checkpoint(path))
    name = ALIASES.get(str(name_or_path), str(name_or_path))
    if name not in PUBLIC:
        raise FileNotFoundError(f"{name_or_path}: no such file or folder, and {_no_public(name)}")
    return find_fetched(name)


def find_fetched(name: str) -> Path:
    """Name of a public checkpoint -> its file in the cache. Errors: not fetched, not as it was fetched."""
    if not _checkpoints_in(checkpoint_folder() / name):
        raise FileNotFoundError(
            f"{name}: a public checkpoint that is not on this machine; fetch it with `rales weights {name}`"
        )
    return _check_undamaged(_only_checkpoint(checkpoint_folder() / name))


def _check_undamaged(checkpoint: Path) -> Path:
    """Checkpoint file -> itself. Errors: one that was fetched, by whatever name it is called, and differs now."""
    release = checkpoint.resolve().parent
    if release.parent == checkpoint_folder().resolve() and (damaged := _find_damaged(release.name)):
        raise ValueError(
            f"{damaged}: SHA-256 differs from the one recorded at download, so the file was damaged or replaced; "
            f"fetch it again with `rales weights {release.name}`"
        )
    return checkpoint


def _checkpoint_of_run(folder: Path) -> Path | None:
    """Run folder -> its checkpoint; None for any other folder."""
    if not (folder / "config.json").is_file():
        return None
    best, last = folder / "best.safetensors", folder / "last.safetensors"
    if not (folder / "done").exists() and (best.exists() or any(folder.glob("resume*.safetensors"))):
        raise ValueError(f"{folder}: the run is not finished; the same command goes on with it")
    return next((file for file in (best, last) if file.is_file()), None)


def fetch_checkpoint(
    name: str, progress: bool = True, address: str | None = None, file: str | Path | None = None
) -> Path:
    """Public name or alias -> its checkpoint file in the cache, downloaded and unpacked unless already there.

    Of two processes one downloads and the other waits. A download that was interrupted begins anew.

    Parameters
    ----------
    name
        A name of `PUBLIC` or `ALIASES`.
    progress
        Show how far the download is.
    address
        A mirror of the same file (http or https).
    file
        The publisher's file, downloaded elsewhere: nothing is fetched.

    Raises
    ------
    ValueError
        The name is unknown, or the file is not the expected one; it is then removed.
    OSError
        The server is out of reach, the disk is full, or the cache cannot be written to.
    """
    name = ALIASES.get(name, name)
    if name in SHIPPED:
        raise ValueError(f"{name}: comes with the package, so nothing is fetched; the encoder of rales-mn04 is mn04_as")
    if name not in PUBLIC:
        raise ValueError(f"{name}: {_no_public(name)}")
    if file and not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file; expected the one of {PUBLIC[name].address}")
    address = address or PUBLIC[name].address
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"{address}: expected an address that begins with https:// or http://")

    target = checkpoint_folder() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with Lock(target.with_name(f"{name}.lock")):
        if not _checkpoints_in(target) or _find_damaged(name):
            shutil.rmtree(target, ignore_errors=True)
            with own_folder(target.parent, f".{name}.") as place:
                archive = Path(file) if file else _download_archive(address, place, progress)
                _check_hash(name, str(file or address), archive)
                _install(name, address, archive, place, target)
        remove_abandoned(target.parent)
    return _only_checkpoint(target)


def _download_archive(address: str, place: Path, progress: bool) -> Path:
    """Address -> the file, under the name of a zip, in the folder `place`. Errors: OSError, a sentence."""
    import pooch
    import requests

    check_connection(address, f"try again later, or {ELSEWHERE}", by_requests=True)
    pooch.get_logger().setLevel("WARNING")  # else a line for each download
    needed_for_zip_and_copy = 2  # weights hardly shrink

    def check_response(response: "requests.Response", **_: object) -> None:
        if response.status_code >= 400 and response.status_code not in PASSING_STATUS:
            raise OSError(f"{address}: the server answered {response.status_code} {response.reason}; {ELSEWHERE}")
        if address.startswith("https:") and not response.url.startswith("https:"):
            raise OSError(f"{address}: redirected to {response.url}, which is not encrypted; {ELSEWHERE}")
        _need_space(place, needed_for_zip_and_copy * int(response.headers.get("Content-Length", 0)))

    bar = progress_bar(shown=progress, total=1, unit="B", unit_scale=True)  # pooch sets the total
    headers = {"User-Agent": "rales", "Accept-Encoding": "identity"}
    request = pooch.HTTPDownloader(
        bar, CHUNK_BYTES, timeout=(CONNECT_S, TIMEOUT_S), headers=headers, hooks={"response": check_response}
    )
    archive = "release.zip"
    source = pooch.create(place, "", registry={archive: None}, urls={archive: address}, retry_if_failed=RETRIES)
    try:
        with bar:
            return Path(source.fetch(archive, downloader=request))
    except requests.HTTPError as error:
        raise ConnectionError(f"{address}: the server answered {error}; try again later, or {ELSEWHERE}") from error
    except requests.RequestException as error:
        raise ConnectionError(
            f"no connection to {address} ({_first_cause(error)}); try again later, or {ELSEWHERE}"
        ) from error


def check_connection(address: str, otherwise: str, *, by_requests: bool = False) -> None:
    """Address, and what to do if it is out of reach -> nothing, within seconds; `by_requests` if requests then fetches.

    Errors: ConnectionError, a sentence. Libraries that fetch ask again for half a minute before they say it. What only
    requests stumbles over, a certificate or a kind of proxy, is for another library that fetches: it may know more.
    That nobody answers where the proxy should be is the same for all.
    """
    import requests

    try:
        with suppress(requests.ReadTimeout):
            requests.head(address, timeout=CONNECT_S, headers={"User-Agent": "rales"})
    except requests.RequestException as error:
        cause = _first_cause(error)
        special = (requests.exceptions.SSLError, requests.exceptions.ProxyError)
        for_all = isinstance(error, requests.ConnectionError) and not isinstance(error, special)
        if by_requests or for_all or isinstance(cause, ConnectionError | socket.gaierror | TimeoutError):
            raise ConnectionError(f"no connection to {address} ({cause}); {otherwise}") from error


def _first_cause(error: BaseException) -> BaseException:
    """What requests raises -> what it was before urllib3 and requests wrapped it."""
    inner = error.__cause__ or error.__context__  # further in stands what the caller was handling
    wrapped = type(error).__module__.partition(".")[0] in ("requests", "urllib3")
    return _first_cause(inner) if wrapped and inner is not None else error


def _check_hash(name: str, address: str, archive: Path) -> None:
    """Downloaded file -> a ValueError unless it has the SHA-256 that is stated, or recorded at the first download."""
    expected = PUBLIC[name].sha256 or _read_record(name).get("sha256")
    if expected and (sha256 := sha256_of(archive)) != expected:
        raise ValueError(
            f"{address}: SHA-256 {sha256}, expected {expected}; it was not kept. "
            f"If the publisher has replaced the file on purpose, delete {_record_path(name)} and fetch it again"
        )


def _install(name: str, address: str, archive: Path, place: Path, target: Path) -> None:
    """The publisher's file -> the folder `target`, by way of `place`, and the record beside it. Errors: a zip
    that holds no checkpoint."""
    unpacked = place / "unpacked"
    unpacked.mkdir()
    try:
        if PUBLIC[name].is_bare:  # torch's own files are zips, too
            shutil.copyfile(archive, unpacked / PurePosixPath(PUBLIC[name].address).name)
        else:
            _unpack_archive(archive, unpacked)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(
            f"{address}: not a zip that holds a checkpoint ({error}); it was not kept: fetch it again, or {ELSEWHERE}"
        ) from error

    record = {
        "address": address,
        "size_bytes": archive.stat().st_size,
        "sha256": sha256_of(archive),
        "files": {file.name: sha256_of(file) for file in _checkpoints_in(unpacked)},
    }
    with atomic_write(_record_path(name)) as beside:
        beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sync_tree(unpacked)
    unpacked.replace(target)
    sync_folder(target.parent)


def _unpack_archive(archive: Path, target: Path) -> None:
    """Zip -> its checkpoints and texts, side by side in `target`; ValueError for a zip no honest release would be.

    Only base names are used, and zipfile stops at the size a member's header claims and checks its CRC, so neither a
    name nor a size can lie its way past the checks here.
    """
    with zipfile.ZipFile(archive) as packed:
        wanted: dict[str, zipfile.ZipInfo] = {}
        for member in packed.infolist():
            path = PurePosixPath(member.orig_filename)
            if path.is_absolute() or ".." in path.parts or any(sign in member.orig_filename for sign in "\\:\0"):
                raise ValueError(f"member {member.orig_filename!r} points outside the folder")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise ValueError(f"member {member.filename!r} is a symbolic link")
            if path.name.startswith("._") or path.suffix not in CHECKPOINT_SUFFIXES | TEXT_SUFFIXES:
                continue  # folders, pictures, and the ._checkpoint-300.pth that macOS adds
            # zipfile bounds what it holds in memory for these two only
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"member {member.filename!r} is packed by method {member.compress_type}, not deflate")
            if path.name in wanted:
                raise ValueError(f"two members are called {path.name!r}")
            wanted[path.name] = member
        size_bytes = sum(member.file_size for member in wanted.values())
        if size_bytes > UNPACKED_LIMIT_BYTES:
            raise ValueError(f"{size_bytes} bytes when unpacked, expected {UNPACKED_LIMIT_BYTES} at most")
        if not any(Path(name).suffix in CHECKPOINT_SUFFIXES for name in wanted):
            raise ValueError(f"no {', '.join(sorted(CHECKPOINT_SUFFIXES))} file inside")
        _need_space(target, size_bytes)
        for name, member in wanted.items():
            with packed.open(member) as source, (target / name).open("xb") as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)


def _need_space(place: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(place).free
    if free_bytes < needed_bytes:
        raise OSError(
            f"{place}: {free_bytes / 1e9:.2f} GB free, {needed_bytes / 1e9:.2f} GB needed; "
            "make room or set RALES_CACHE to a folder on a larger disk"
        )


def _no_public(name: str) -> str:
    nearest = difflib.get_close_matches(name, [*PUBLIC, *ALIASES, *SHIPPED], n=1, cutoff=0.0)[0]
    return f"no public checkpoint of that name; the nearest is {nearest} (`rales weights` lists all)"


def _checkpoints_in(place: Path) -> list[Path]:
    files = place.iterdir() if place.is_dir() else ()
    return sorted(file for file in files if file.suffix in CHECKPOINT_SUFFIXES and not file.name.startswith("."))


def _only_checkpoint(place: Path) -> Path:
    found = _checkpoints_in(place)
    if len(found) != 1:
        names = f" ({', '.join(file.name for file in found)})" if found else ""
        raise ValueError(f"{place}: {len(found)} checkpoints{names}, expected one; pass the checkpoint file itself")
    return found[0]


def _find_damaged(name: str) -> Path | None:
    """Name -> its first unpacked checkpoint that differs from the record; None if all agree or none is recorded."""
    recorded = _read_record(name).get("files", {})
    for file in _checkpoints_in(checkpoint_folder() / name):
        if file.name in recorded and sha256_of(file) != recorded[file.name]:
            return file
    return None


def _record_path(name: str) -> Path:
    return checkpoint_folder() / f"{name}.json"


def _read_record(name: str) -> dict[str, Any]:
    path = _record_path(name)
    advice = f"delete it and the folder {name} beside it, and fetch again with `rales weights {name}`"
    record = read_json(path, advice) if path.exists() else {}
    files = record.get("files", {}) if isinstance(record, dict) else None
    if not isinstance(files, dict) or not all(
        isinstance(text, str) for text in [*files.values(), record.get("sha256", "")]
    ):
        raise ValueError(f"{path}: is no record of a download; {advice}")
    return dict(record)


def sha256_of(path: Path) -> str:
    """File -> its SHA-256, as sha256sum tells it."""
    found = path.stat()
    return _sha256_of(path, found.st_size, found.st_mtime_ns)


@cache
def _sha256_of(path: Path, size_bytes: int, modified_ns: int) -> str:
    """Read once a process: a sweep asks for the same checkpoint with every trial."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

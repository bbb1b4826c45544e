"""Models on a hub: a local one that answers as huggingface.co does, so far as the round trip asks it."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import rales
from rales.errors import UsageError
from rales.evaluation.predictions import NOTICE
from rales.inference.predictor import Predictor
from rales.inference.share import clean_record, write_model_card
from rales.models.model_hub import client_error, hub_address, split_name
from tests import tiny

NAME = "anna/breaths"
COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by name, each {path: content}; `private` are those that were made so."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: list[str] = []


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def reply_json(self, document: Any) -> None:
        self.reply(200, json.dumps(document).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        where = self.path.split("/")[1:]
        if self.path == "/api/repos/create":
            asked = json.loads(sent)
            name = f"{asked['organization']}/{asked['name']}"
            private = asked.get("private") or asked.get("visibility") == "private"
            self.server.private += [name] if private and name not in self.server.files else []  # else it stays as it is
            self.server.files.setdefault(name, {})
            self.reply_json({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self.reply_json({"errors": [], "warnings": []})
        elif where[4] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(sent)["files"]
            ]
            self.reply_json({"files": files})
        else:
            for line in map(json.loads, sent.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files["/".join(where[2:4])][line["value"]["path"]] = content
            self.reply_json(
                {"commitUrl": f"http://{self.headers['Host']}/{NAME}/commit/{'a' * 40}", "commitOid": "a" * 40}
            )

    def do_GET(self) -> None:
        where = self.path.partition("?")[0].split("/")[1:]
        if where[0] == "api":
            name = "/".join(where[2:4])
            self.reply_json({"id": name, "private": name in self.server.private})
            return
        files = self.server.files.get("/".join(where[:2]))
        if where[0] == "closed":
            self.reply(403)
        elif files is None:
            self.reply(404, X_Error_Code="RepoNotFound")
        elif where[3] not in ("main", COMMIT):
            self.reply(404, X_Error_Code="RevisionNotFound")
        elif (content := files.get(where[-1])) is None:
            self.reply(404, X_Error_Code="EntryNotFound")
        else:
            self.reply(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def model() -> Predictor:
    return tiny.model()


def test_a_model_goes_to_the_hub_and_comes_back(hub: Hub, model: Predictor) -> None:
    model.record["command"] = "rales train --data /home/anna"
    address = model.push_to_hub(NAME, licence="cc-by-4.0", note="Of one clinic.")
    assert (address, hub.private) == (f"hf://{NAME}", [NAME])
    assert sorted(hub.files[NAME]) == ["README.md", "model.safetensors"]
    assert b"/home/anna" not in hub.files[NAME]["model.safetensors"]
    again = rales.load(address, device="cpu")
    assert again.digest == model.digest
    with pytest.raises(FileNotFoundError, match="hf://anna/other: there is no such model"):
        rales.load("hf://anna/other")
    with pytest.raises(FileNotFoundError, match="it has no branch, tag or commit v9"):
        rales.load(f"hf://{NAME}@v9")
    with pytest.raises(FileNotFoundError, match="the hub answered with HTTP status 403"):
        rales.load("hf://closed/model")
    hub.files["anna/cat"] = {"README.md": b"no model"}
    with pytest.raises(FileNotFoundError, match=r"hf://anna/cat: it has no model\.safetensors"):
        rales.load("hf://anna/cat")


def test_a_hub_out_of_reach_is_told_at_once_and_what_was_fetched_is_taken(
    hub: Hub, model: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = model.push_to_hub(NAME)
    rales.load(address, device="cpu")
    hub.shutdown()
    hub.server_close()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it asks again"))
    assert rales.load(address, device="cpu").digest == model.digest
    with pytest.raises(FileNotFoundError, match="hf://anna/other: it was not fetched before, and the hub is out of"):
        rales.load("hf://anna/other")
    with pytest.raises(ConnectionError, match=r"no connection to .*nothing was put there"):
        model.push_to_hub(NAME)


def test_a_proxy_that_lets_nothing_through_is_a_sentence(
    hub: Hub, model: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise client_error()("403 Forbidden")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(FileNotFoundError, match="hf://anna/cat: the hub is out of reach"):
        rales.load("hf://anna/cat")
    with pytest.raises(ConnectionError, match=r"no connection to .* \(403 Forbidden\); nothing was put there"):
        model.push_to_hub(NAME)


def test_a_public_repository_takes_no_private_model(hub: Hub, model: Predictor) -> None:
    hub.files[NAME] = {}
    with pytest.raises(UsageError, match="on the hub already and not private, so nothing was put there"):
        model.push_to_hub(NAME)
    assert hub.files[NAME] == {}


def test_a_shared_record_names_nobody() -> None:
    record = {
        "recipe": "m2d_fusion",
        "provenance": "ours, and/or the paper's",
        "command": "rales train --data /home/anna",
        "config": {
            "from_model": "/home/anna/runs/one",
            "weights": "weights/m2d.pth",
            "encoder": r"C:\anna\own.py:Encoder",
            "train": {"metrics": ["/home/anna/metrics.py:mine"], "lr": 0.1},
        },
        "asked": {"config": {"from_model": "hf://anna/breaths"}},
        "overrides": {"weights": "/home/anna/m2d.pth"},
        "recipe_source": {"file": "/home/anna/own.py", "name": "mine", "sha256": "ab"},
        "split": {"overlap_patients": ["156", "218"], "left_out": ["/home/anna/smith.wav: damaged"], "digest": "d1"},
    }
    assert clean_record(record) == {
        "recipe": "m2d_fusion",
        "provenance": "ours, and/or the paper's",
        "command": "",
        "config": {
            "from_model": "one",
            "weights": "m2d.pth",
            "encoder": "own.py:Encoder",
            "train": {"metrics": ["metrics.py:mine"], "lr": 0.1},
        },
        "asked": {"config": {"from_model": "hf://anna/breaths"}},
        "overrides": {"weights": "m2d.pth"},
        "recipe_source": {"file": "own.py", "name": "mine", "sha256": "ab"},
        "split": {
            "overlap_patients": [],
            "overlap_patients_count": 2,
            "left_out": [],
            "left_out_count": 1,
            "digest": "d1",
        },
    }


def test_an_address_of_a_hub_begins_with_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "hub.clinic.org")
    with pytest.raises(
        UsageError, match=r"HF_ENDPOINT=hub\.clinic\.org: expected an address that begins with https://"
    ):
        hub_address()


def test_a_model_card_says_what_it_is_of(model: Predictor) -> None:
    card = write_model_card(model, NAME, licence="cc-by-4.0", note="Of one clinic.")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "license: cc-by-4.0" in head
    assert f"**{NOTICE}**" in body
    assert f'rales.load("hf://{NAME}")' in body
    assert "| classes | normal, crackle, wheeze, both |" in body
    assert "No figures of a test" in body


def test_a_card_of_a_run_has_its_figures(tmp_path: Path) -> None:
    model = tiny.model()
    tiny.save(model, tmp_path / "best.safetensors")
    figures: dict[str, Any] = {
        "specificity": 0.92,
        "sensitivity": 0.766,
        "score": 0.843,
        "ci95": {"score": [0.771, 0.915]},
    }
    figures["warnings"] = ["leaky split"]
    model.record["config"]["train"]["select"] = "test_best"
    (tmp_path / "evaluation.json").write_text(json.dumps(figures))
    model.checkpoint = tmp_path / "best.safetensors"
    card = write_model_card(model, NAME)
    assert "| score | 84.3 | 77.1 to 91.5 |" in card
    assert "| specificity | 92.0 | - |" in card
    assert "| epoch kept | chosen on the test side, so the figures flatter |" in card
    assert "**Warning:** leaky split." in card
    assert "license:" not in card


@pytest.mark.parametrize("word", ["hf://anna", "hf://a/b/c", "hf://a/b@", "hf://../b c"])
def test_names_of_another_form_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="expected hf://USER/NAME"):
        split_name(word)


def test_a_revision_is_named_after_an_at() -> None:
    assert split_name("hf://anna/breaths@v1.0") == ("anna/breaths", "v1.0")

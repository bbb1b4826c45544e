"""Requests made up from the OpenAPI description, right and wrong ones: every answer is one that it announces."""

import errno
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from rales.web.decoding import Decoder, DecoderRestarted
from tests.served import new_session, recording, upload

EXAMPLES = {GenerationMode.POSITIVE: 10, GenerationMode.NEGATIVE: 10}  # of each operation; tests/attack has more
# Times must fit the recording and files must hold sound, which a description cannot say
SENSELESS = [positive_data_acceptance]


@pytest.mark.parametrize("mode", list(EXAMPLES))
def test_the_service_is_as_described(client: httpx.Client, place: Path, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(described(client, place))
    known = {"Authorization": client.headers["authorization"]}
    schema.config.update(base_url=str(client.base_url), headers=known, request_timeout=60)
    sound = recording(place).read_bytes()
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    if mode is GenerationMode.NEGATIVE:  # where nothing is sent, nothing can be wrong
        operations = [each for each in operations if each.body or any(map(can_be_wrong, each.iter_parameters()))]
    assert len(operations) >= 20
    reached: set[tuple[str, int]] = set()
    for operation in operations:

        @seed(0)
        @settings(max_examples=EXAMPLES[mode], deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def as_described(case: Any) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "audio" in case.body:
                case.body["audio"] = sound
            answer = case.call_and_validate(excluded_checks=SENSELESS)
            reached.add((case.method, answer.status_code))
            if answer.status_code >= 400:
                detail = answer.json()["detail"]
                assert isinstance(detail, str)
                assert len(detail) > 10

        as_described()
    statuses = {status for _, status in reached}
    assert statuses >= ({200, 201, 204, 404} if mode is GenerationMode.POSITIVE else {404, 415, 422})
    assert max(statuses) < 500
    assert client.get("/health").status_code == 200


def can_be_wrong(parameter: Any) -> bool:
    return bool(parameter.name.lower() != "authorization")  # the client's own


def described(client: httpx.Client, place: Path) -> dict[str, Any]:
    """-> the service's description, in which sessions and recordings are some that are there or an unknown one: those
    that may be removed and, for all else, one of its own."""
    schema: dict[str, Any] = client.get("/openapi.json").json()
    sound = recording(place)

    def some(many: int) -> dict[str, list[str]]:
        sessions = [new_session(client) for _ in range(many)]
        recordings = [upload(client, session, sound)["id"] for session in sessions]
        return {"session": sessions, "recording": recordings, "learned": [], "live": ["0" * 16]}  # none is learned here

    lasting, going = some(1), some(4)
    for operations in schema["paths"].values():
        for method, operation in operations.items():
            known = going if method == "delete" else lasting
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    parameter["schema"] = {"enum": [*known[parameter["name"]], "x"]}
    return schema


# Odd letters

JSON = {"content-type": "application/json"}
HALVES = ["\ud800", "a\udfff", "\ud83d\ude00 \udc00\ud800"]
ODD = [*HALVES, "\0\r\n\x1b[2J", "\u202e\ufffe e\u0301 \U0010ffff"]


def test_odd_letters_in_every_field_of_every_body(client: httpx.Client, place: Path) -> None:
    """Halves of letters, which JSON can name and nothing can store, as values and as names of fields: a sentence, or
    something else in their place. The rest of Unicode comes back as it was sent."""
    schema = described(client, place)
    parts, sent = schema["components"]["schemas"], 0
    known = {"live": "x", **{name: some(schema, name) for name in ("session", "recording")}}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            for field in parts[body["schema"]["$ref"].split("/")[-1]]["properties"]:
                for odd in ODD:
                    given = [{"start_s": 0, "end_s": 1, "label": odd}] if field == "cycles" else odd
                    whole = {"recording": known["recording"], "name": "x", "cycles": [], "reviewed": False}
                    for sending in ({**whole, field: given}, {**whole, odd: 1}, {**whole, field: {odd: [odd]}}):
                        content = json.dumps(sending)
                        answer = client.request(method, path.format(**known), content=content, headers=JSON)
                        assert answer.status_code in (200, 201, 404, 409, 422), (path, content, answer.text)
                        assert answer.status_code < 400 or len(answer.json()["detail"]) > 10
                        sent += 1
    assert sent > 100
    lost = client.post("/annotations", content=b'{"recording": "\\ud800", "cycles": []}', headers=JSON)
    assert lost.json()["detail"] == r"'\ud800' is half of a letter (a lone surrogate); send whole Unicode"
    name = "肺音 e\u0301 \U0001f600"
    assert client.post("/sessions", json={"name": name}).json()["name"] == name


def some(schema: dict[str, Any], name: str) -> str:
    """-> a session or a recording that is there (see `described`)."""
    parameters = schema["paths"][f"/{name}s/{{{name}}}"]["get"]["parameters"]
    (found,) = [each for each in parameters if each["name"] == name]
    return str(found["schema"]["enum"][0])


def test_odd_letters_in_paths_queries_headers_and_texts(client: httpx.Client) -> None:
    for path in ("/sessions/%ed%a0%80", "/recordings/%ff/audio", "/recordings/x%00/export", "/%ed%a0%80"):
        answer = client.get(path)
        assert (answer.status_code, len(answer.json()["detail"]) > 10) == (404, True), answer.text
    for query in ("model=%ed%a0%80", "model=%ff", "%ed%a0%80=1", "model=\\ud800"):
        assert client.post(f"/recordings/x/predictions?{query}").status_code in (404, 422)
    for value in (
        b"\xed\xa0\x80",
        b"\xff\xfe",
        b"multipart/form-data; boundary=\xff",
        b"application/json; charset=\xff",
    ):
        for name in (b"content-type", b"cookie", b"origin", b"accept", b"range"):
            answer = client.post("/sessions", content=b'{"name": "x"}', headers={name: value})
            assert answer.status_code in (201, 400, 403, 415, 422), (name, value, answer.text)

    statuses = set()
    for text in (b'"\xff"', b'"\xed\xa0\x80"', b"[" * 100_000, b"1" + b"0" * 5000, b"1e999", '"x"'.encode("utf-16")):
        answer = client.post("/sessions", content=b'{"name": ' + text + b"}", headers=JSON)
        assert answer.status_code in (201, 400, 422), answer.text
        assert answer.status_code == 201 or len(answer.json()["detail"]) > 10
        statuses.add(answer.status_code)
    assert statuses >= {400, 422}


def test_odd_letters_in_forms(client: httpx.Client, place: Path) -> None:
    """Charsets that make halves of letters of plain ones, in names of files and in fields."""
    session, sound = new_session(client), recording(place).read_bytes()
    names = (b"+2AA-.wav", b"\\ud800.wav", b"&#55296;.wav", b"\xff.wav", b"a\r.wav", b"\xed\xa0\x80.wav")
    for charset in ("utf-7", "unicode_escape", "undefined"):
        for number, name in enumerate(names):
            parts = [b'name="audio"; filename="' + name + b'"\r\n\r\n' + sound, b'name="path"\r\n\r\n' + name]
            content = b"".join(b"--y\r\nContent-Disposition: form-data; " + each + b"\r\n" for each in parts) + b"--y--"
            kind = {"content-type": f"multipart/form-data; boundary=y; charset={charset}"}
            path = "/predict" if number % 2 else f"/sessions/{session}/recordings"
            answer = client.post(path, content=content, headers=kind)
            assert answer.status_code in (200, 201, 400, 422), (charset, name, answer.text)
    taken = client.get(f"/sessions/{session}").json()["recordings"]
    assert taken
    assert not any(letter in line["path"] for line in taken for letter in "\ud800\r")
    assert client.get(f"/sessions/{session}/export").status_code == 200


# Answers


def test_every_method_that_a_path_takes_is_named(client: httpx.Client) -> None:
    """Where another is refused (RFC 9110, 15.5.6), also on paths that several routes serve."""
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        taken = {method.upper() for method in operations}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - taken:
            names = {"session": "x", "recording": "x", "revision": "1", "learned": "x", "live": "x"}
            answer = client.request(method, path.format(**names))
            assert answer.status_code == 405
            assert {each.strip() for each in answer.headers["allow"].split(",")} == taken, path


def test_a_full_disk_where_uploads_are_kept_meanwhile(
    client: httpx.Client, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger ones are put into the system's folder for temporary files while they come in."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sound = recording(place).read_bytes()
    files = {"audio": ("a.wav", sound), "annotation": ("a.txt", b"#" * 3_000_000)}
    with monkeypatch.context() as patched:
        patched.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
        answer = client.post("/predict", files=files)
    assert (answer.status_code, "disk of the service is full; make room" in answer.text) == (507, True), answer.text
    with monkeypatch.context() as patched:
        patched.setattr("shutil.copyfileobj", full)
        assert client.post("/predict", files={"audio": ("a.wav", sound)}).status_code == 507
    assert client.post("/predict", files={"audio": ("a.wav", sound)}).status_code == 200
    assert not list((place / "store" / "arriving").iterdir())


def test_a_decoder_that_is_lost_is_not_the_files_fault(
    client: httpx.Client, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any) -> None:
        raise DecoderRestarted("was not decoded, because the decoder of recordings does not start; send it again")

    files = {"audio": ("night.wav", recording(place).read_bytes())}
    with monkeypatch.context() as patched:
        patched.setattr(Decoder, "tried", lost)
        answer = client.post("/predict", files=files)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["detail"].startswith("night: was not decoded, because the decoder")
    assert client.post("/predict", files=files).status_code == 200

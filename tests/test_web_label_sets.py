"""The page and its service follow the label set of the model that is served."""

import html
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect

from rales.labels import ICBHI, LabelSet
from rales.web import STATIC, cycle_edits, stored_rows
from tests import tiny
from tests.browsed import choose, pages, saved
from tests.scripted import Script, script
from tests.served import new_session, served, upload

OWN = LabelSet(("healthy", "rhonchi", "stridor"))
FINDINGS = LabelSet(("crackle", "stridor", "squawk"), independent=True)
SETS = {"icbhi": ICBHI, "own": OWN, "findings": FINDINGS}
NAMES = ("no sound", "noise", *(f"finding of a long name {number}" for number in range(18)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` and a run folder for each label set."""
    folder = tmp_path_factory.mktemp("sets")
    tiny.write_folder(folder / "data")
    for name, label_set in SETS.items():
        words = (f"classes={','.join(label_set.classes)}", f"independent={str(label_set.independent).lower()}")
        model, run = tiny.model(*(words if not label_set.is_icbhi else ())), folder / "runs" / name
        run.mkdir(parents=True)
        tiny.save(model, run / "best.safetensors")
        (run / "config.json").write_text(json.dumps(model.record))
        (run / "done").touch()
    return folder


@pytest.fixture(scope="module")
def client(place: Path, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Of a service of the model that the test names; pytest runs the tests of one model together."""
    with served(place, folder=place / f"store-{request.param}", model=str(place / "runs" / request.param)) as client:
        yield client


def sound(place: Path) -> Path:
    return min((place / "data").glob("*.wav"))


def cycles_of(*labels: str) -> list[dict[str, Any]]:
    return [{"start_s": i, "end_s": i + 1, "label": label, "confirmed": True} for i, label in enumerate(labels)]


def annotate(client: httpx.Client, recording: str, *labels: str) -> httpx.Response:
    return client.post("/annotations", json={"recording": recording, "cycles": cycles_of(*labels)})


# The service


@pytest.mark.parametrize("client", ["own"], indirect=True)
def test_three_own_classes_from_the_upload_to_the_exports(place: Path, client: httpx.Client) -> None:
    session, path = new_session(client), sound(place)
    facts = upload(client, session, path, path.with_suffix(".txt"))
    assert [cycle["start_s"] for cycle in facts["cycles"]] == [
        0,
        1,
        2,
        3,
    ]  # times of the annotation, labels of the model
    assert {cycle["label"] for cycle in facts["cycles"]} <= set(OWN.classes)
    assert "without a word, is none of the classes" in facts["notes"][0]
    assert facts["notes"][0].endswith("its times are used")
    (rows,) = facts["scores"].values()
    assert all(sum(row[column] for column in OWN.columns) == pytest.approx(1, abs=1e-5) for row in rows)
    assert [name for name in rows[0] if name.startswith("p_")] == list(OWN.columns)

    refused = annotate(client, facts["id"], "healthy", "crackle")
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "cycle 2: label 'crackle' is none of healthy, rhonchi, stridor",
    )
    line = annotate(client, facts["id"], "healthy", "stridor", "stridor").json()["facts"]
    assert line["findings"] == {"healthy": 1, "rhonchi": 0, "stridor": 2}

    refused = client.get(f"/sessions/{session}/export")  # ICBHI's format, as without a word
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "format icbhi knows crackles and wheezes only; ask for one of csv, audacity, raven",
    )
    exported = {form: client.get(f"/recordings/{facts['id']}/export?format={form}").text for form in ("csv", "raven")}
    table = pd.read_csv(io.StringIO(exported["csv"]), comment="#")
    assert table["label"].tolist() == ["healthy", "stridor", "stridor"]
    assert set(OWN.columns) <= set(table.columns)
    assert exported["raven"].count("stridor") >= 2
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/sessions/{session}/export?format=audacity").content))
    assert "\tstridor" in archive.read(f"{path.stem}.audacity.txt").decode()


@pytest.mark.parametrize("client", ["own"], indirect=True)
def test_the_label_set_is_told_in_one_place(client: httpx.Client) -> None:
    (told,) = re.findall('<meta name="labels" content="([^"]*)">', client.get("/").text)
    assert json.loads(html.unescape(told)) == {"classes": list(OWN.classes), "forms": ["csv", "audacity", "raven"]}
    parts = client.get("/openapi.json").json()["components"]["schemas"]
    assert parts["MarkedCycle"]["properties"]["label"]["enum"] == list(OWN.classes)
    assert set(OWN.columns) <= set(parts["ScoredSpan"]["properties"])
    assert "p_crackle" not in parts["PredictedCycle"]["properties"]


@pytest.mark.parametrize("client", ["findings"], indirect=True)
def test_independent_classes_are_a_set_of_names(place: Path, client: httpx.Client) -> None:
    facts = upload(client, new_session(client), sound(place))
    line = annotate(client, facts["id"], "squawk+crackle", "normal", "crackle").json()["facts"]
    assert line["findings"] == {"normal": 1, "crackle": 2, "stridor": 0, "squawk": 1}
    labels = [cycle["label"] for cycle in client.get(f"/recordings/{facts['id']}").json()["cycles"]]
    assert labels == ["crackle+squawk", "normal", "crackle"]  # in the order of the set
    assert annotate(client, facts["id"], "wheeze").status_code == 422


def test_another_label_set_mislabels_nothing(place: Path, tmp_path: Path) -> None:
    """Cycles with its labels are refused with a sentence, and are there again when their model is."""

    def standing(client: httpx.Client) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = [client.get(f"/recordings/{recording}").json() for recording in (edited, untouched)]
        return found[0], found[1:]

    with served(place, folder=tmp_path / "store", model=str(place / "runs" / "own")) as client:
        session = new_session(client)
        edited, untouched = (upload(client, session, sound(place))["id"] for _ in range(2))
        assert annotate(client, edited, "stridor", "healthy").status_code == 201
        before = standing(client)
    with served(place, folder=tmp_path / "store", model=str(place / "runs" / "icbhi")) as client:
        foreign, _ = standing(client)
        assert (foreign["status"], foreign["cycles"], foreign["scores"]) == ("failed", [], {})
        assert (
            "its cycles are of a model of other classes (cycle 1 has the label 'stridor', expected normal"
            in foreign["problem"]
        )
        assert client.get(f"/recordings/{edited}/export?format=csv").status_code == 409
        assert client.post(f"/recordings/{edited}/revisions/1/restore").status_code == 404
        assert client.post(f"/recordings/{edited}/predictions").status_code == 200  # writes nothing over what stands
    with served(place, folder=tmp_path / "store", model=str(place / "runs" / "own")) as client:
        assert standing(client) == before


def test_a_model_of_other_classes_answers_programs_but_no_session(place: Path, tmp_path: Path) -> None:
    path = sound(place)
    with served(place, folder=tmp_path / "both", model=str(place / "runs" / "icbhi"), runs=place / "runs") as client:
        listed = {each["name"]: each["classes"] for each in client.get("/models").json()}
        assert listed["own"] == list(OWN.classes)
        facts = upload(client, new_session(client), path)
        answer = client.post(f"/recordings/{facts['id']}/predictions?model=own")
        assert answer.status_code == 422
        assert "own tells healthy, rhonchi, stridor apart, these sessions have normal, crackle" in answer.text
        files = {"audio": (path.name, path.read_bytes())}
        (first, *_) = client.post("/predict", files=files, data={"model": "own"}).json()["cycles"]
        assert first["label"] in OWN.classes
        assert [name for name in first if name.startswith("p_")] == list(OWN.columns)


@pytest.mark.parametrize(
    ("classes", "independent", "takes"),
    [
        (("normal", "crackle", "wheeze"), False, True),
        (("Healthy", "Crackle", "Wheeze", "Both"), False, True),
        (("crackle", "wheeze"), True, True),
        (("normal", "abnormal"), False, False),
        (("normal", "crackle", "stridor"), False, False),
    ],
)
def test_icbhi_format_takes_what_it_can_say(classes: tuple[str, ...], independent: bool, takes: bool) -> None:
    label_set = LabelSet(classes, independent)
    assert ("icbhi" in cycle_edits.known_forms(label_set)) == takes
    rows = [{"start_s": 0, "end_s": 1, "label": label} for label in ("Crackle", "crackle+wheeze", "wheeze", "Healthy")]
    text = cycle_edits.write_cycles("icbhi", {"name": "a"}, rows, label_set)
    assert [line.split("\t")[2:] for line in text.splitlines()] == [["1", "0"], ["1", "1"], ["0", "1"], ["0", "0"]]


def test_stored_probabilities_of_other_classes_are_no_answer() -> None:
    text = json.dumps([{"start_s": 0, "end_s": 1, "label": "normal", **dict.fromkeys(ICBHI.columns, 0.25)}])
    three = LabelSet(("normal", "crackle", "wheeze"))
    with pytest.raises(stored_rows.OtherLabels, match="cycle 1 has p_both, a probability of another class"):
        stored_rows.read_scored(text, three)
    numbers = dict.fromkeys(("duration_s", "rate_hz", "channels", "reviewed", "made"), 1)
    row = {
        **numbers,
        "name": "a",
        "path": "a.wav",
        "status": "ready",
        "problem": "",
        "revision": 0,
        "origin": "segment",
        "events": "[]",
        "facts": "{}",
    }
    marked = json.dumps(cycles_of("normal"))
    found = stored_rows.read_recording({**row, "scored": text, "original": marked, "saved": None}, three)
    assert (found["status"], found["scored"], found["made"], len(found["original"])) == ("ready", None, None, 1)


# The page's rules

RULES = """({ given, label, other, name, scores }) => {
  const labels = page.labelSet(given);
  return {
    letters: labels.names.map(labels.letters), keyed: labels.keyed, findings: labels.findings,
    union: label && labels.union(label, other), toggled: name && labels.toggled(label, name),
    look: label && labels.look(label), confidence: scores && labels.confidence(scores),
    known: label && labels.isLabel(label), joined: label && labels.letters(label),
  };
}"""


@pytest.fixture(scope="module")
def rules() -> Iterator[Script]:
    with script("classes.js", RULES) as working:
        yield working


def told(label_set: LabelSet) -> dict[str, Any]:
    return {**label_set.to_record(), "forms": cycle_edits.known_forms(label_set)}


def test_rules_of_exclusive_classes(rules: Script) -> None:
    found = rules({"given": told(OWN), "label": "rhonchi", "other": "stridor"})
    assert (found["letters"], found["keyed"], found["look"]) == (["H", "R", "S"], list(OWN.classes), 1)
    assert found["union"] is None  # no class says both
    assert rules({"given": told(OWN), "label": "healthy", "other": "stridor"})["union"] == "stridor"
    assert found["findings"] == [[f"with {name}", f"with {name}", [name]] for name in ("rhonchi", "stridor")]
    assert not rules({"given": told(OWN), "label": "crackle", "other": "crackle"})["known"]
    assert rules({"given": told(ICBHI), "label": "crackle", "other": "wheeze"})["union"] == "both"
    assert rules({"given": told(ICBHI)})["letters"] == ["N", "C", "W", "B"]
    scores = {"p_healthy": 0.2, "p_rhonchi": 0.7, "p_stridor": 0.1}
    assert rules({"given": told(OWN), "scores": scores})["confidence"] == 0.7


def test_rules_of_independent_classes(rules: Script) -> None:
    given = {"given": told(FINDINGS), "label": "crackle+squawk", "other": "stridor"}
    found = rules({**given, "name": "squawk", "scores": {"p_crackle": 0.9, "p_stridor": 0.4, "p_squawk": 0.7}})
    assert (found["union"], found["toggled"], found["joined"]) == ("crackle+stridor+squawk", "crackle", "C+Sq")
    assert found["confidence"] == pytest.approx(0.6)
    assert found["letters"] == ["N", "C", "S", "Sq"]
    assert rules({**given, "label": "crackle", "name": "crackle"})["toggled"] == "normal"
    assert rules({**given, "label": "normal", "name": "stridor"})["toggled"] == "stridor"


def test_twenty_classes_have_letters_keys_and_colours_of_their_own(rules: Script) -> None:
    found = rules({"given": told(LabelSet(NAMES)), "label": NAMES[19], "other": NAMES[0]})
    assert len(set(found["letters"])) == 20
    assert found["letters"][:2] == ["N", "No"]
    assert (found["keyed"], found["look"]) == (list(NAMES[:9]), 19)


def test_what_is_written_on_a_colour_can_be_read() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, of every class, light and dark; and no two classes share a colour."""
    style = (STATIC / "css" / "page.css").read_text()
    shades = dict(re.findall(r"--((?:on-)?c\d+): light-dark\(([^)]*)\)", style))
    colours = {name: value.split(", ") for name, value in shades.items()}
    assert set(colours) == {f"{kind}c{number}" for kind in ("", "on-") for number in range(21)}
    for scheme in (0, 1):
        assert len({colours[f"c{number}"][scheme] for number in range(21)}) == 21
        for number in range(1, 21):
            lights = [luminance(colours[f"{kind}c{number}"][scheme]) for kind in ("", "on-")]
            assert (max(lights) + 0.05) / (min(lights) + 0.05) >= 4.5, (number, scheme)


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# The page


def labels_of(client: httpx.Client) -> list[str]:
    """-> the labels that are saved of the only recording."""
    (session,) = client.get("/sessions").json()
    (facts,) = client.get(f"/sessions/{session['id']}").json()["recordings"]
    return [cycle["label"] for cycle in client.get(f"/recordings/{facts['id']}").json()["cycles"]]


def remove_sessions(client: httpx.Client) -> None:
    for session in client.get("/sessions").json():
        assert client.delete(f"/sessions/{session['id']}").status_code == 204


def options(page: Page, field: str) -> list[str]:
    return [str(option.get_attribute("value")) for option in page.locator(f"{field} option").all()]


@pytest.mark.parametrize("client", ["own"], indirect=True)
def test_three_classes_on_the_page(place: Path, client: httpx.Client, browser: Browser) -> None:
    remove_sessions(client)
    with pages(client, browser) as opened:
        page = opened()  # which begins a session with the first recording
        choose(page, sound(place))
        assert [item.inner_text() for item in page.locator("#classes li").all()] == [
            "H Healthy",
            "R Rhonchi",
            "S Stridor",
        ]
        forms = [button.get_attribute("value") for button in page.locator("#export button").all()]
        assert forms == ["csv", "audacity", "raven"]
        assert options(page, "#show") == ["all", "open", "done", "ambiguous", "with rhonchi", "with stridor", "problem"]
        expect(page.locator("#label-buttons .label-name")).to_have_text(["Healthy", "Rhonchi", "Stridor"])
        for number, label in enumerate(OWN.classes, start=1):
            page.locator("#rows tr").first.locator("th button").focus()
            page.keyboard.press(str(number))
            expect(page.get_by_label("Label of cycle 1")).to_have_value(label)
        saved(page)
        assert labels_of(client)[0] == "stridor"
        badge = page.locator("#rows tr").first.locator(".badge")
        expect(badge).to_have_css("background-color", "rgb(10, 108, 174)")  # the third colour


@pytest.mark.parametrize("client", ["findings"], indirect=True)
def test_independent_classes_on_the_page(place: Path, client: httpx.Client, browser: Browser) -> None:
    """A key or a button of a class says that the cycle has it or has it not."""
    remove_sessions(client)
    with pages(client, browser) as opened:
        page = opened()  # which begins a session with the first recording
        choose(page, sound(place))
        row = page.locator("#rows tr").first
        row.locator("th button").focus()
        page.keyboard.press("0")
        expect(row.locator("th button")).to_have_text("1 N")
        page.keyboard.press("3")
        page.get_by_role("button", name="Crackle in cycle 1").click()
        expect(row.locator("th button")).to_have_text("1 C+Sq")
        expect(page.get_by_role("button", name="Squawk in cycle 1")).to_have_attribute("aria-pressed", "true")
        saved(page)
        assert labels_of(client)[0] == "crackle+squawk"
        page.get_by_role("button", name="Crackle in cycle 1").click()
        saved(page)
        assert labels_of(client)[0] == "squawk"

"""Events in the formats of other programs: what each can say comes back, and what is broken is a sentence."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rales.data import audit_data, read_events
from rales.data.event_readers import parse_events
from rales.data.event_writers import FORMATS, Marked, format_events
from rales.data.events import CRACKLES, EXPIRATION, WHEEZES, Event, event_problem, find_kind, flags_of_events

BREATH = [  # the cycle 7.923 to 10.530 s of the page's drawing
    Event(EXPIRATION, 8.4, 8.4),
    Event("wheeze", 8.45, 8.85, 720.0, 960.0),
    Event("rhonchus", 8.9, 9.3),
    Event("fine crackle", 9.38, 9.38),
    Event("coarse crackle", 9.62, 9.64, 150.0, 1400.0),
    Event("stridor", 9.7, 10.1, 500.0, 1200.5),
]


def said(form: str, events: list[Event], file: str = "anna.wav") -> str:
    return format_events(Marked(events, file, 20.0), form)


@pytest.mark.parametrize("form", ["raven", "audacity", "sprsound", "aoef"])
def test_what_is_written_is_read(form: str, tmp_path: Path) -> None:
    found = parse_events(said(form, BREATH), "anna")
    assert (found.form, found.events, found.problems, found.notes) == (form, BREATH, [], [])
    (tmp_path / f"anna{FORMATS[form]}").write_text(format_events(Marked(BREATH, "anna.wav", 20.0), form))
    assert read_events(tmp_path / f"anna{FORMATS[form]}", 20.0) == BREATH
    assert said(form, list(reversed(BREATH))) == said(form, BREATH)


def test_icbhi_knows_crackles_and_wheezes_alone() -> None:
    found = parse_events(said("icbhi", BREATH), "a")
    words = [(event.kind, event.start_s, event.end_s) for event in found.events]
    assert words == [
        *(("wheeze", 8.45, 8.85), ("wheeze", 8.9, 9.3), ("crackle", 9.38, 9.38)),
        *(("crackle", 9.62, 9.64), ("wheeze", 9.7, 10.1)),
    ]
    assert {event.low_hz for event in found.events} == {None}


@st.composite
def some_events(draw: st.DrawFn) -> list[Event]:
    milliseconds = st.integers(0, 20_000).map(lambda ms: ms / 1000)

    def event(kind: str) -> Event:
        start_s, end_s = sorted((draw(milliseconds), draw(milliseconds)))
        start_s, end_s = (
            (start_s, start_s) if kind == EXPIRATION else (start_s, round(end_s + (kind in WHEEZES) / 1000, 3))
        )
        if kind == EXPIRATION or draw(st.booleans()):
            return Event(kind, start_s, end_s)
        low_hz, above_hz = draw(st.integers(0, 70_000)) / 10, draw(st.integers(1, 9_000)) / 10
        return Event(kind, start_s, end_s, low_hz, round(low_hz + above_hz, 1))

    kinds = draw(st.lists(st.sampled_from([*WHEEZES, *CRACKLES[1:], EXPIRATION]), min_size=1, max_size=6))
    return list(dict.fromkeys(map(event, kinds)))


@settings(max_examples=40, deadline=None)
@given(events=some_events(), form=st.sampled_from(["raven", "audacity", "sprsound", "aoef"]))
def test_any_events_come_back_to_the_millisecond(events: list[Event], form: str) -> None:
    assert all(event_problem(event, 20.0) == "" for event in events)
    found = parse_events(said(form, events), "a", 20.0)
    assert (found.problems, sorted(found.events, key=str)) == ([], sorted(events, key=str))


def test_crowsetta_reads_what_is_written_for_raven(tmp_path: Path) -> None:
    import crowsetta

    (tmp_path / "anna.txt").write_text(said("raven", BREATH))
    boxes = crowsetta.formats.bbox.Raven.from_file(tmp_path / "anna.txt", annot_col="Event").to_bbox()
    assert len(boxes) == len(BREATH)
    box = boxes[1]
    assert (box.onset, box.offset, box.low_freq, box.high_freq, box.label) == (8.45, 8.85, 720.0, 960.0, "wheeze")


def test_an_annotation_set_by_hand() -> None:
    """Fields and geometries as soundevent 2.10 writes them."""
    document = json.loads(said("aoef", BREATH[1:4]))
    data = document["data"]
    assert data["collection_type"] == "annotation_set"
    assert [sound["geometry"] for sound in data["sound_events"]] == [
        {"type": "BoundingBox", "coordinates": [8.45, 720.0, 8.85, 960.0]},
        {"type": "TimeInterval", "coordinates": [8.9, 9.3]},
        {"type": "TimeStamp", "coordinates": 9.38},
    ]
    polygon = [[[1.0, 300], [1.5, 900.5], [1.2, 250]]]
    data["sound_events"][0]["geometry"] = {"type": "Polygon", "coordinates": polygon}
    found = parse_events(json.dumps(document), "a")
    assert found.events[0] == Event("wheeze", 1.0, 1.5, 250.0, 900.5)

    other = {"uuid": "other", "path": "visit/Berta.WAV"}
    data["recordings"].append(other)
    data["sound_events"][1]["recording"] = "other"
    text = json.dumps(document)
    assert "holds 2 recordings (Berta.WAV, anna.wav), 0 of them called ''" in parse_events(text, "a").problems[0]
    assert parse_events(text, "a", recording="berta").events == [BREATH[2]]


def test_audacity_and_raven_of_others() -> None:
    track = "1\t2\tWheezes\n\\\t-1.000000\t600\n3.5\t3.5\tfine_crackle\n\\\t700.0\t700.0\n4\t5\tcough\n6\t7\tcough\n"
    found = parse_events(track, "a.txt")
    assert found.events == [Event("wheeze", 1.0, 2.0), Event("fine crackle", 3.5, 3.5)]
    assert found.notes == ["a.txt: left out what is no kind of event: cough (2)"]
    rows = [
        "Selection\tView\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tAnnotation",
        "1\tWaveform 1\t1\t2\t0\t4000\trhonchi",
        "1\tSpectrogram 1\t1\t2\t120\t300\trhonchi",
    ]
    assert parse_events("\n".join(rows), "a").events == [Event("rhonchus", 1.0, 2.0, 120.0, 300.0)]


def test_a_raven_table_of_several_files() -> None:
    """Begin Time runs through all of them; File Offset is that in the file."""
    rows = [
        ["Selection", "View", "Begin Time (s)", "End Time (s)", "Begin File", "File Offset (s)", "Annotation"],
        ["1", "Waveform 1", "1", "2", "anna.wav", "1", "wheeze"],
        ["2", "Waveform 1", "21.5", "22", "Berta.wav", "1.5", "rhonchus"],
    ]
    text = "\n".join("\t".join(row) for row in rows)
    assert parse_events(text, "a", 20.0, "anna.wav").events == [Event("wheeze", 1.0, 2.0)]
    assert parse_events(text, "a", 20.0, "berta.WAV").events == [Event("rhonchus", 1.5, 2.0)]
    assert (
        "holds 2 recordings (Berta.wav, anna.wav), 0 of them called 'c.wav'"
        in parse_events(text, "a", 20.0, "c.wav").problems[0]
    )
    without = "\n".join("\t".join([*row[:5], *row[6:]]) for row in rows)
    assert "its times go through 2 files" in parse_events(without, "a", 20.0, "anna.wav").problems[0]

    alone = parse_events("\n".join("\t".join(row) for row in (rows[0], rows[2])), "a", 20.0, "anna.wav")
    assert alone.events == [Event("rhonchus", 1.5, 2.0)]
    assert alone.notes == ["a: says that it is of Berta.wav, here it is taken for anna.wav"]


def test_an_annotation_set_with_two_tags_and_another_name() -> None:
    document = json.loads(said("aoef", [BREATH[1]]))
    document["data"]["tags"].append({"id": 1, "key": "respiratory_event", "value": "Fine crackles"})
    document["data"]["sound_event_annotations"][0]["tags"] = [0, 1]
    found = parse_events(json.dumps(document), "a", 20.0, "berta.wav")
    assert found.events == [BREATH[1], BREATH[1]._replace(kind="fine crackle")]
    assert found.notes == ["a: says that it is of anna.wav, here it is taken for berta.wav"]
    assert parse_events(json.dumps(document), "a", 20.0, "Anna.flac").notes == []


def test_types_of_sprsound() -> None:
    rows = [
        {"start": "100", "end": "900", "type": "Wheeze+Crackle"},
        {"start": 1000, "end": 1500, "type": "Normal"},
        {"start": "2000", "end": "2500", "type": "Rhonchi"},
    ]
    found = parse_events(json.dumps({"record_annotation": "CAS & DAS", "event_annotation": rows}), "a")
    assert found.events == [Event("wheeze", 0.1, 0.9), Event("crackle", 0.1, 0.9), Event("rhonchus", 2.0, 2.5)]
    with pytest.raises(ValueError, match="2 crackles are neither fine nor coarse"):
        said("sprsound", [Event("crackle", 0.1, 0.9), Event("crackle", 1.1, 1.9)])
    labels = [json.loads(said("sprsound", [event]))["record_annotation"] for event in BREATH]
    assert labels == ["Normal", "CAS", "CAS", "DAS", "DAS", "CAS"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a: empty, expected a line `start end crackle` per event"),
        ("{", "a: not valid JSON"),
        ("[" * 100_000, "expected start, end and the kind of event"),
        ('{"a": ' * 100_000, "a: not valid JSON"),
        ("{}", "a: no events in this JSON"),
        ('{"event_annotation": 3}', "a: event_annotation is no list"),
        ('{"event_annotation": [3]}', "a, event 1: expected start, end and type"),
        (
            '{"event_annotation": [{"start": "x", "end": 1, "type": "Wheeze"}]}',
            "start and end are 'x' and '1', expected ms",
        ),
        ('{"event_annotation": [], "expiration_ms": [null]}', "a: expiration_ms holds '', expected milliseconds"),
        ('{"data": {"sound_events": 3}}', "a: sound_events is no list of objects"),
        ('{"data": {"sound_event_annotations": [{}]}}', "a, annotation 1: its sound event is not in the file"),
        ('{"data": {}}', "a: no event in it; expected one of wheeze"),
        ("0 1 1 0\n", "a, line 1: cycles (start end crackles wheezes), no events"),
        ("0\t1\t0\t1\n", "a, line 1: cycles (start end crackles wheezes), no events"),
        ("1 wheeze\n", "a, line 1: 2 columns, expected start, end and the kind"),
        ("1 x wheeze\n", "a, line 1: start and end are '1' and 'x', expected numbers of seconds"),
        ("2 1 wheeze\n", "a, line 1: the wheeze lasts from 2 s to 1 s, expected 0 <= start <= end"),
        ("nan 1 wheeze\n", "a, line 1: start and end are 'nan'"),
        ("1 1 wheeze\n", "a, line 1: the wheeze at 1 s has no length"),
        ("1 2 expiration\n", "a, line 1: expiration begins at one moment"),
        (
            "19 21 wheeze\n",
            "a, event 1: the wheeze at 19-21 s lies past the end of the recording, which lasts 20.000 s",
        ),
        ("1 2 snore\n", "a: no event in it; expected one of wheeze, rhonchus"),
        ("1\t2\twheeze\n\\\tx\t3\n", "a, line 1: frequencies are 'x' and '3', expected numbers of hertz"),
        ("1\t2\twheeze\n\\\n", "a, line 2: expected the lowest and the highest frequency"),
        ("1\t2\twheeze\n\\\t900\t300\n", "a, line 1: the wheeze at 1 s lies between 900 and 300 Hz"),
        ("Begin Time (s)\tEnd Time (s)\n1\t2\n", "a: no column of labels; expected one of Event, Class"),
    ],
)
def test_what_is_broken_is_a_sentence(text: str, sentence: str) -> None:
    found = parse_events(text, "a", 20.0)
    assert found.problems
    assert sentence.replace("expected ms", "expected milliseconds") in found.problems[0]
    assert found.events == []


def test_words_and_cycles() -> None:
    assert [find_kind(word) for word in ("Wheeze", "RHONCHI", "Fine_Crackles", " stridor ", "cough", "", "normal")] == [
        *("wheeze", "rhonchus", "fine crackle", "stridor", None, None, None),
    ]
    cycles = [(7.923, 8.4), (8.4, 9.0), (9.0, 10.53), (11.0, 12.0)]
    assert [flags_of_events(BREATH, *cycle) for cycle in cycles] == [None, (0, 1), (1, 1), None]


def test_events_beside_recordings_are_no_annotations(tmp_path: Path) -> None:
    """Whatever is exported beside an ICBHI recording, `rales check` takes it for no cycles and says nothing of it."""
    name = "101_1b1_Al_sc_Meditron"
    (tmp_path / f"{name}.txt").write_text("0 1 1 0\n")
    before = audit_data(tmp_path).to_dict()
    for form in FORMATS.keys() - {"sprsound"}:
        (tmp_path / f"{name}{FORMATS[form]}").write_text(format_events(Marked(BREATH, f"{name}.wav", 20.0), form))
    assert audit_data(tmp_path).to_dict() == before

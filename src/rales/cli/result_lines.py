"""Results of jobs -> lines for a person at a terminal."""

import math
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from rales.errors import count_noun
from rales.labels import LabelSet

FIGURES = ("specificity", "sensitivity", "score")
FINDINGS = ("abnormal", "crackle", "wheeze")
SHOWN_THRESHOLDS = (0.3, 0.5, 0.7, 0.9)  # of a review; the others are in JSON
NOT_A_DIAGNOSIS = "Research tool, not a diagnosis."


def audit_lines(found: dict[str, Any]) -> list[str]:
    """Audit of a data folder (JSON of `rales check`) -> lines."""
    lines = [f"{found['recordings']} recordings of {found['patients']} patients, {found['cycles']} cycles"]
    head = ["split", "recordings", "cycles", *found["classes"]]
    rows = [
        [part, facts["recordings"], facts["cycles"], *facts["classes"].values()]
        for part, facts in found["splits"].items()
    ]
    rows.append(["all", found["recordings"], found["cycles"], *found["classes"].values()])
    lines += format_table(head, rows)
    if labels := found.get("recording_labels"):
        counts = ", ".join(f"{labels[name]} {name}" for name in ("normal", *FINDINGS))
        lines.append(f"{labels['recordings']} recordings labelled as a whole: {counts}")
    if found["overlap_patients"]:
        lines.append(f"patients on both sides of the split: {', '.join(found['overlap_patients'])}")
    lines += [f"note: {note}" for note in found["notes"]]
    lines += [f"problem: {problem}" for problem in found["problems"]]
    lines.append(f"{len(found['problems'])} problems")
    return lines


def figure_lines(figures: dict[str, Any]) -> list[str]:
    """Figures of an evaluation -> lines: the Score and everything that must stand beside it."""
    label_set = LabelSet.from_record(figures)
    lines = [
        *caution_lines(figures, label_set),
        "",
        *score_lines(figures, label_set),
        "",
        *detected_lines(figures, label_set),
        *calibration_error_lines(figures),
        f"macro recall {format_percent(figures['macro_recall'])}",
        *(challenge_lines(figures["sprsound_task"]) if "sprsound_task" in figures else []),
    ]
    if counts := figures.get("parameters"):
        lines.append(f"{counts['trained']:,} of {counts['all']:,} parameters trained")
    for name, own in figures.get("own", {}).items():
        low, high = map(format_number, own["ci95"])
        lines.append(f"{name} {format_number(own['value'])}, 95 % {low} to {high}")
    lines += ["", *confusion_lines(figures, label_set)]
    for group in ("by_device", "by_location"):
        if group in figures:
            head = [group.removeprefix("by_"), "cycles", *FIGURES]
            rows = [[name, part["cycles"], *format_percents(part)] for name, part in figures[group].items()]
            lines += ["", *format_table(head, rows)]
    return [*lines, "", NOT_A_DIAGNOSIS]


def caution_lines(figures: dict[str, Any], label_set: LabelSet) -> list[str]:
    """Figures of an evaluation and their classes -> what was scored how, and what it cannot be compared with."""
    protocol = figures["protocol"]
    lines = [
        *provenance_lines(protocol),
        protocol_line(protocol),
        *(f"warning: {sentence}" for sentence in figures.get("warnings", [])),
    ]
    if protocol["select"] == "test_best":
        lines.append("the epoch was chosen on the test set, as the paper did: these figures are optimistic")
    if not label_set.is_icbhi:
        independent = "independent classes" if label_set.independent else "own classes"
        lines.append(f"{independent} ({', '.join(label_set.classes)}): not comparable with published scores")
    elif not protocol["whole_database"]:
        lines.append("not the whole ICBHI database: not comparable with published scores")
    if protocol.get("same_data_as_training") is False:
        lines.append("the data is not what the run was trained with: other cycles, labels or split")
    return lines


def score_lines(figures: dict[str, Any], label_set: LabelSet) -> list[str]:
    """Figures of an evaluation and their classes -> the table of the three scores under every rule."""
    rows = [
        [name_scoring(label_set), *format_percents(figures), format_interval(figures["ci95"]["score"])],
        ["two-class", *format_percents(figures["two_class"]), ""],
        [f"all called {label_set.normal}", *format_percents(figures["majority"]), ""],
    ]
    threshold = figures.get("validation_threshold") or {}
    if threshold.get("threshold") is not None:
        rule = "named if p >" if label_set.independent else f"{label_set.normal} if p >="
        rows.insert(1, [f"{rule} {threshold['threshold']:.3f} (validation)", *format_percents(threshold), ""])
    for name, part in figures.get("leak_free", {}).items():
        trained = f" ({part['cycles_trained_on']} cycles trained on)" if part["cycles_trained_on"] else ""
        rows.append([name + trained, *format_percents(part), format_interval(part["ci95"]["score"])])
    if validation := figures.get("validation"):
        row = [f"{count_noun(validation['cycles'], 'validation cycle')}, strict", *format_percents(validation), ""]
        rows.append(row)
    return format_table(["", *FIGURES, "95 % of score"], rows)


def detected_lines(figures: dict[str, Any], label_set: LabelSet) -> list[str]:
    """Figures of an evaluation and their classes -> how well cycles rank, and by which rule they are labelled."""
    lines = []
    if validation := figures.get("validation"):
        of_what = "crackles and wheezes present" if label_set.is_icbhi else "each class against the rest"
        lines.append(f"validation cycles: mean AUROC of {of_what} {format_number(validation['auroc'])}")
    for what, detection in name_detections(figures).items():
        lines.append(
            f"{what}: AUROC {format_number(detection['auroc'])}, "
            f"average precision {format_number(detection['average_precision'])}"
        )
    if figures["protocol"].get("labels") == "thresholds":
        lines.append("labels by the model's own threshold for each finding, not by the most probable class")
    return lines


def calibration_error_lines(figures: dict[str, Any]) -> list[str]:
    """Figures of an evaluation -> the calibration error, with the validation patients' temperature or the model's."""
    if found := figures.get("validation_temperature"):
        return [
            f"calibration error {format_number(found['ece'])}, with temperature {found['temperature']:.2f} of the "
            f"validation patients {format_number(found['ece_calibrated'])}"
        ]
    if found := figures.get("reliability"):
        return [
            f"calibration error {format_number(found['ece'])}, with the model's temperature {found['temperature']:.2f} "
            f"{format_number(found['ece_calibrated'])}"
        ]
    return []


def name_scoring(label_set: LabelSet) -> str:
    """Classes of an evaluation -> what its strict figures are called."""
    if label_set.independent:
        return f"strict, {count_noun(len(label_set), 'independent class', 'es')}"
    return "strict four-class" if label_set.is_icbhi else f"strict {len(label_set)}-class"


def name_detections(figures: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Figures of an evaluation -> what is detected -> how well."""
    if "by_class" in figures:
        return dict(figures["by_class"])
    return {what.replace("_", " "): figures[what] for what in ("crackle_present", "wheeze_present")}


def confusion_lines(figures: dict[str, Any], label_set: LabelSet) -> list[str]:
    """Figures of an evaluation -> lines: what was called what; of independent classes what was found and missed."""
    if not label_set.independent:
        rows = [[name, *row] for name, row in zip(label_set.classes, figures["confusion"], strict=True)]
        return ["rows true, columns predicted:", *format_table(["", *label_set.classes], rows)]
    rows = [
        [name, found, missed, false, right]
        for name, ((right, false), (missed, found)) in figures["confusion_per_class"].items()
    ]
    return format_table(["class", "found", "missed", "falsely named", "rightly not"], rows)


def protocol_line(protocol: dict[str, Any]) -> str:
    """Protocol of figures -> which cycles were scored, and how the weights came about."""
    by = f" by {protocol['select_by']}" if protocol["select"] == "validation" and protocol.get("select_by") else ""
    part = protocol.get("part", "test")
    cycles = count_noun(protocol["cycles"], "cycle" if part == "all" else f"{part} cycle")
    return (
        f"{cycles} of {count_noun(protocol['patients'], 'patient')}, split {protocol['split']}, epoch "
        f"{protocol['selected_epoch']} of {protocol['epochs']} (select {protocol['select']}{by}), "
        f"seed {protocol['seed']}"
    )


def trained_lines(trained: int | None, what: str) -> list[str]:
    """How many of what was scored the model was trained on, None where nobody knows -> a warning, if there is any."""
    if trained is None:
        return ["the model's record does not tell which recordings it was trained on: these may be among them"]
    return [f"warning: {trained} of these {what} were seen in training"] if trained else []


def evaluation_lines(figures: dict[str, Any]) -> list[str]:
    """Figures of `rales evaluate` -> lines: those of cycles where they are labelled, of findings, of recordings."""
    protocol = figures["protocol"]
    of_cycles = "score" in figures
    what = "cycles" if of_cycles else "recordings"
    lines = trained_lines(protocol["cycles_trained_on"], what)
    if of_cycles:
        detected = detection_lines("cycles", figures["detection"]) if "detection" in figures else []
        if taught := protocol["cycles_calibrated_on"]:
            lines.append(f"warning: {taught} of these cycles taught the calibration, thresholds and sets included")
        sets = set_lines(figures["prediction_sets"]) if "prediction_sets" in figures else []
        review = threshold_lines(figures["thresholds"])
        lines = [*figure_lines(figures)[:-2], "", *lines, "", *sets, "", *detected, "", *review]
    else:
        recordings, patients = count_noun(protocol["recordings"], "recording"), protocol["patients"]
        found = ", ".join(f"{source} {count}" for source, count in figures["cycles_found_by"].items())
        lines = [
            f"{recordings} of {count_noun(patients, 'patient')}, labelled as a whole; cycles by {found}",
            *(f"problem: {problem}" for problem in figures["problems"]),
            *lines,
        ]
    if "decision_layer" in figures:
        lines += ["", *decision_lines(figures["decision_layer"])]
    if "recordings" not in figures:  # of own classes, or of several runs
        return [*lines, "", NOT_A_DIAGNOSIS]
    whole = figures["recordings"]
    count = count_noun(whole["recordings"], "recording")
    lines += ["", f"{count}, {whole['not_judged']} not judged; {whole['pooling']}"]
    for name, part in {"recordings": whole, **whole.get("by_filter", {})}.items():
        lines += detection_lines(name, {finding: part[finding] for finding in FINDINGS})
    return [*lines, "", NOT_A_DIAGNOSIS]


def challenge_lines(found: dict[str, Any]) -> list[str]:
    """Figures of a task of SPRSound's challenges -> a line for each side."""
    lines = []
    for side, one in found["sides"].items():
        told = ", ".join(f"{name.upper()} {format_percent(one[name])}" for name in ("se", "sp", "as", "hs"))
        low, high = (format_percent(end) for end in one["as_ci95"] or (math.nan, math.nan))
        rows = count_noun(one["rows"], found["rows"].removesuffix("s"))
        poor = one.get("poor_quality", 0)
        unscored = f"; {one['poor_quality_found']} of {poor} of poor quality found, not scored" if poor else ""
        lines.append(
            f"SPRSound task {found['task']}, {side}, {rows}: {told}, score {format_percent(one['score'])}, AS 95 % by "
            f"patient {low} to {high}{unscored}"
        )
    return lines


def suspect_lines(found: dict[str, Any]) -> list[str]:
    """Summary of `rales suspect` -> lines."""
    rows = [
        [
            row["rank"],
            row["recording"],
            f"{row['start_s']:.2f}",
            row["label"],
            row["suggested"],
            f"{row['quality']:.2g}",
        ]
        for row in found["first"][:10]
    ]
    return [
        f"{count_noun(found['cycles'], 'cycle')}, answers of {found['answers']}, {format_percent(found['agree'])} % of "
        f"which agree with the label; {found['suspects']} labels are taken for wrong, the first of them:",
        *format_table(["", "recording", "start s", "label", "answers say", "quality"], rows),
        f"{found['page']}: to look at and listen to; {found['table']}: all cycles in this order",
        "either the label or the answers may be wrong; only listening tells",
        "",
        NOT_A_DIAGNOSIS,
    ]


def event_lines(found: dict[str, Any]) -> list[str]:
    """Figures of `rales evaluate --events` -> lines: a table by class, and what was compared how."""
    protocol, told = found["protocol"], found["events"]
    ways = ", ".join(f"{source} {count}" for source, count in found["cycles_found_by"].items())
    head = ["", "annotated", "found", "right", "precision", "recall", "F", "error rate"]
    rows = []
    for name, one in {"all": told, **told["by_class"]}.items():
        percents = [format_percent(one[figure]) for figure in ("precision", "recall", "f")]
        rows.append([name, one["annotated"], one["found"], one["right"], *percents, format_number(one["error_rate"])])
    recordings, patients = (count_noun(protocol[each], each.removesuffix("s")) for each in ("recordings", "patients"))
    return [
        *trained_lines(protocol["cycles_trained_on"], "cycles"),
        f"events of {recordings} of {patients}, part {protocol['part']}; found by {ways}",
        f"right: the class, the onset within {protocol['collar_s']:g} s, the offset within that or "
        f"{100 * protocol['offset_share']:g} % of the length",
        *(f"problem: {problem}" for problem in found["problems"]),
        "",
        *format_table(head, rows),
        f"substituted {told['substituted']}, deleted {told['deleted']}, inserted {told['inserted']}",
        "",
        NOT_A_DIAGNOSIS,
    ]


def decision_lines(layer: dict[str, Any]) -> list[str]:
    """`decision_layer` of an evaluation -> lines: how the figures above were decided, and the scores without it."""
    patients = count_noun(layer["validation_patients"], "validation patient")
    limit = layer["threshold"]
    chosen = layer["reason"] if limit is None else f'threshold for "normal" {limit:.2f}, of {patients}'
    plain = layer["most_probable"]
    alone = ", ".join(format_percent(each["score"]) for each in plain["runs"])
    runs, shifts = count_noun(layer["runs"], "run"), count_noun(len(layer["shifts_s"]), "shift")
    return [
        f"mean of {runs} and {shifts} in time; {chosen}",
        f"most probable class: score {format_percent(plain['all']['score'])}; of each run alone {alone}",
    ]


def detection_lines(what: str, found: dict[str, Any]) -> list[str]:
    """Finding -> how well it is told apart -> a table."""
    head = [what, "AUROC", "95 % by patient", "with it", "without", "flagged with it", "flagged without"]
    head = head if any("found" in one for one in found.values()) else head[:-2]
    rows = []
    for name, one in found.items():
        low, high = map(format_number, one["ci95"])
        interval = "no interval" if low == "-" else f"{low} to {high}"
        flagged = [one.get("found", "-"), one.get("false_alarms", "-")]
        cells = [name, format_number(one["auroc"]), interval, one["positives"], one["negatives"], *flagged]
        rows.append(cells[: len(head)])
    return format_table(head, rows)


def threshold_lines(found: dict[str, Any]) -> list[str]:
    """Class or finding -> its rows by threshold -> a table of some of them: how many of the cycles that are found are
    right, and the share of all that is found."""
    head = ["from probability", *(f"{threshold:g}" for threshold in SHOWN_THRESHOLDS)]
    rows = []
    for name, table in found.items():
        chosen = [row for row in table if row["threshold"] in SHOWN_THRESHOLDS]
        rows.append([name, *(f"{row['right']}/{row['found']}, {format_number(row['recall'])}" for row in chosen)])
    return ["right / found, recall (all thresholds: --json, --thresholds FILE):", *format_table(head, rows)]


def provenance_lines(protocol: dict[str, Any]) -> list[str]:
    """Protocol of figures -> a line that says how sure it is that this is the published system, if it is another's."""
    from rales.report.literature import PROVENANCE

    provenance = protocol.get("provenance")
    return [f"{protocol['recipe']}: {provenance}, {PROVENANCE[provenance]}"] if provenance in PROVENANCE else []


def set_lines(measured: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """`prediction_sets` of an evaluation -> a table per nominal coverage and device."""
    head = ["prediction sets", "patients", "cycles", "% covered, by patient", "by cycle", "labels in a set", "of"]
    rows = []
    for word, groups in measured.items():
        for name, one in groups.items():
            covered = map(format_percent, (one["coverage"], one["coverage_cycles"]))
            size = f"{one['mean_size']:.2f}"
            rows.append(
                [f"{float(word):.0%}, {name}", one["patients"], one["cycles"], *covered, size, one["calibrated_on"]]
            )
    return format_table(head, rows)


def calibration_lines(document: dict[str, Any]) -> list[str]:
    """What a model's calibration was and is -> lines."""
    had, has = document["had"] or {}, document["has"]
    head = ["", "before", "now"]
    told = [[name, format_number(had.get(name)), format_number(has[name])] for name in ("temperature", "threshold")]
    for name, found in has["classes"].items():
        before = had.get("classes", {}).get(name, {}).get("threshold")
        told.append([f"threshold of {name}", format_number(before), format_number(found["threshold"])])
    lines = [
        f"learned from {count_noun(document['cycles'], 'cycle')} of {count_noun(document['patients'], 'patient')}; "
        f"before: {had.get('origin', 'validation patients') if had else 'not calibrated'}",
        "",
        *format_table(head, told),
        "",
        *class_threshold_lines(has),
        f"calibration error {format_number(has['reliability']['before'])} before, "
        f"{format_number(has['reliability']['after'])} on patients held out",
        "",
        *quantile_lines(has["conformal"]),
    ]
    notes = [f"note: {note}" for note in document["notes"]]
    return [*lines, "", *notes, f"checkpoint: {document['out']}", NOT_A_DIAGNOSIS]


def class_threshold_lines(known: dict[str, Any]) -> list[str]:
    """`calibration` of a record -> a line for each finding: what its threshold found on patients held out."""
    return [
        f"{name}, {known['aim']}: on patients held out {found['found']} of {count_noun(found['positives'], 'cycle')} "
        f"with it named, {found['false_alarms']} of {found['negatives']} without"
        for name, found in known["classes"].items()
    ]


def quantile_lines(conformal: dict[str, Any]) -> list[str]:
    """`calibration.conformal` of a record -> a table: from which probability on a label is in a set, per device."""
    pooled = conformal["pooled"]
    head = ["label in the set from", "patients", "cycles", *(f"{float(word):.0%}" for word in pooled["least"])]
    rows = [
        [name, group["patients"], group["cycles"]]
        + [format_number(group["least"][word]) if word in group["least"] else "as all" for word in pooled["least"]]
        for name, group in {"all patients": pooled, **conformal["devices"]}.items()
    ]
    return format_table(head, rows)


SOURCES = {
    "annotation": "",
    "manifest": "",
    "segment": " (no annotation: breaths found in the sound)",
    "window": " (no annotation: windows, not breaths)",
}


PRINTED_CYCLES = 100


def prediction_lines(document: dict[str, Any]) -> list[str]:
    """Predicted cycles -> lines, a block per recording; of very many the first, and how many more there are."""
    lines: list[str] = []
    path, shown = None, shown_names(document["cycles"])
    columns = [name for name in next(iter(document["cycles"]), {}) if name.startswith("p_")]
    wide = max([8, *(len(row["label"] or "") for row in document["cycles"])])
    for row in document["cycles"][:PRINTED_CYCLES]:
        if row["path"] != path:
            path = row["path"]
            windows = SOURCES[row["source"]]
            names = "".join(f"{column[2:]:>{max(9, len(column))}}" for column in columns)
            lines += ["", shown[path] + windows, f"{'cycle':>5}  {'start s':>8} {'end s':>8}  {'label':<{wide}}{names}"]
        true = row.get("true_label")
        answer = f"not judged: {row['quality_reason']}"
        if row["label"] is not None:
            cells = (f"{row[column]:>{max(9, len(column))}.3f}" for column in columns)
            answer = f"{row['label']:<{wide}}" + "".join(cells)
        lines.append(
            f"{row['cycle']:>5}  {row['start_s']:>8.3f} {row['end_s']:>8.3f}  {answer}"
            + (f"  annotated {true}" if true else "")
            + (f"  set: {row['prediction_set']}" if "prediction_set" in row else "")
        )
    if (left := len(document["cycles"]) - PRINTED_CYCLES) > 0:
        lines += ["", f"and {left} more cycles: --out FILE takes all, --summary FILE has a row per recording"]
    return [*lines[1:], "", document["notice"]]


PRINTED_RECORDINGS = 20


def recording_lines(document: dict[str, Any]) -> list[str]:
    """Recordings, the most suspicious first, and notices -> lines; of very many the first."""
    rows, shown = document["recordings"], shown_names(document["recordings"])
    findings = [name for name in (rows[0] if rows else {}) if name.startswith("p_any_")]
    head = ["recording", "cycles", *(name.removeprefix("p_").replace("_", " ") for name in findings), "flagged"]
    cells = [
        [shown[row["path"]], row["cycles"], *(format_number(row[name]) for name in findings), row.get("flagged", "")]
        for row in rows[:PRINTED_RECORDINGS]
    ]
    lines = ["", *format_table(head, cells)] if findings else []
    if (left := len(rows) - PRINTED_RECORDINGS) > 0:
        lines += [f"and {left} more recordings, which the file has"]
    return [*lines, "", *document["notices"]]


def shown_names(rows: list[dict[str, Any]], namesakes: Sequence[str] = ()) -> dict[str, str]:
    """Rows with `recording` and `path` -> path -> the name to show: with as much of its folder as tells it from others
    of that name here, or elsewhere (`namesakes`)."""
    named: dict[str, set[str]] = {}
    for row in rows:
        named.setdefault(row["recording"], set()).add(row["path"])
    shown = dict[str, str]()
    for name, paths in named.items():
        parts = {path: PurePath(path).parts for path in paths}
        deepest = max(map(len, parts.values()))
        tails = ({path: part[-n:] for path, part in parts.items()} for n in range(2, deepest + 1))
        told = next((tail for tail in tails if len(set(tail.values())) == len(paths)), parts)
        alone = len(paths) == 1 and name not in namesakes
        shown |= {path: name if alone else str(PurePath(*told[path])) for path in paths}
    return shown


def nearest_lines(document: dict[str, Any]) -> list[str]:
    """Nearest rows of an embedding set -> lines."""
    head = ["recording", "cycle", "start s", "end s", "similarity"]
    shown = shown_names(document["nearest"], document["namesakes"])
    numbers = ["start_s", "end_s", "similarity"]
    rows = [
        [shown[row["path"]], row["cycle"] or "all", *(f"{row[name]:.3f}" for name in numbers)]
        for row in document["nearest"]
    ]
    return [*format_table(head, rows), "", document["notice"]]


def explain_lines(document: dict[str, Any]) -> list[str]:
    """Contributions of patches -> lines: the strongest ten."""
    grid = document["contribution"]
    cells = [(value, row, column) for row, line in enumerate(grid) for column, value in enumerate(line)]
    strongest = sorted(cells, key=lambda cell: -abs(cell[0]))[:10]
    rows = [
        [f"{value:+.3f}", f"{document['hz'][row]:.0f}", f"{document['time_s'][column]:.2f}"]
        for value, row, column in strongest
    ]
    odds = document["log_odds"]
    return [
        f"{document['recording']}, cycle {document['cycle']}: log-odds of {document['target']} {odds:+.3f}, "
        f"without sound {document['log_odds_without_sound']:+.3f}",
        "",
        *format_table(["strongest patches", "Hz", "s in the clip"], rows),
        "",
        document["notice"],
    ]


def batch_lines(document: dict[str, Any]) -> list[str]:
    """A batch job's counts -> lines."""
    hours = document["seconds_of_sound"] / 3600
    return [
        f"{document['ok']} recordings read ({hours:.1f} h), {document['cycles']} cycles, "
        f"{document['not_judged']} of them not judged; {document['failed']} failed, "
        f"{document['waiting']} waiting",
        f"{document['out']}: cycles, summary and status, a Parquet file a shard",
        document["notice"],
    ]


def arrived_lines(document: dict[str, Any]) -> list[str]:
    """What a watch has answered -> lines."""
    read, failed = count_noun(document["recordings"], "recording"), document["failed"]
    failures = f"; {failed} could not be read" if failed else ""
    return [f"{read} answered, {document['cycles']} cycles: {document['out']}{failures}", document["notice"]]


def pretrain_lines(document: dict[str, Any]) -> list[str]:
    """What came of a pre-training -> lines."""
    loss, left, epochs = document["loss"], document["left_out"], document["epochs"]
    lines = [
        f"{document['recordings']} recordings, {left} left out, {document['passed_over']} passed over",
        *(f"note: {note}" for note in document["notes"]),
        f"log-mel mean {document['mean']:.2f}, standard deviation {document['std']:.2f}",
        f"loss {loss['first_epoch']:.4f} in the first epoch, {loss['last_epoch']:.4f} in the last of {epochs}",
    ]
    if probe := document["probe"]:
        rows = [
            [name, *format_percents(probe[when]), format_percent(probe[when]["score_last_layer"])]
            for name, when in (("before", "start"), ("after", "last"))
        ]
        head = ["linear probe, train cycles", *FIGURES, "last layer alone"]
        lines += [
            "",
            *format_table(head, [*rows, ["all called normal", "100.0", "0.0", "50.0", "50.0"]]),
            NOT_A_DIAGNOSIS,
        ]
    return [*lines, f"checkpoint: {document['checkpoint']}"]


def gpu_estimate_lines(document: dict[str, Any]) -> list[str]:
    """What the runs of a part of the paper cost on one GPU -> lines."""
    head = ["system", "runs", "GFLOP a cycle trained", "scored", "hours", "memory, GB"]
    rows = [
        [
            cost["system"],
            cost["runs"],
            *(f"{cost[name]:.1f}" for name in ("train_gflop", "score_gflop", "hours", "memory_gigabytes")),
        ]
        for cost in document["systems"]
    ]
    return [
        *format_table(head, rows),
        "",
        f"{count_noun(document['runs'], 'run')}, about {document['hours']:.1f} hours on one GPU that sustains "
        f"{document['tflops']:g} TFLOP/s (assumed: --tflops), {document['memory_gigabytes']:.1f} GB of its memory in "
        f"float32, {document['gigabytes']:.1f} GB of disk",
        "operations of matrix products, convolutions and attention, counted on a step of every system; not counted are "
        "reading, front-ends and, where a system trains in two stages (respirenet, moummad), the shorter one",
        "a public checkpoint that is not on this machine counts as its network from a random start",
    ]


def search_lines(document: dict[str, Any]) -> list[str]:
    """A search for settings -> lines: what was tried, the best first, and how to go on with it."""
    settings, best = document["settings"], document["best"]
    tried = sorted(document["tried"], key=lambda each: -max(each["figures"].values(), default=-1))
    names = list(dict.fromkeys(name for each in tried for name in each["values"]))
    rows = []
    for each in tried:
        values = [each["values"][name] for name in names]
        shown = [f"{value:.4g}" if isinstance(value, float) else value for value in values]
        best_figure = format_number(max(each["figures"].values(), default=None))
        rows.append([each["name"], *shown, best_figure, f"{each['state']} {each['error']}".strip()])
    lines = format_table(["trial", *names, settings["figure"], ""], rows)
    if best is None:
        return [*lines, "no trial was finished", NOT_A_DIAGNOSIS]
    fixed = [word for word in settings["fixed"] if word != "train.select=validation"]
    chosen = [*fixed, *(f"{name}={value}" for name, value in best["values"].items())]
    words = shlex.join(each for word in chosen for each in ("--set", word))
    return [
        *lines,
        "",
        f"best of {count_noun(len(tried), 'trial')}: {best['name']}, {settings['figure']} "
        f"{format_number(best['figure'])}, the highest of many and so optimistic; the test cycles had no part in it",
        f"train it: rales train {shlex.quote(settings['recipe'])} {words} --select validation --data … --out …",
        NOT_A_DIAGNOSIS,
    ]


def outcome_lines(document: dict[str, Any]) -> list[str]:
    """Outcomes of a sweep -> lines: the ranking, counts, failures with their sentence last."""
    trials = document["trials"]
    lines = [f"{state}: {sum(t['state'] == state for t in trials)}" for state in ("done", "skipped", "failed")]
    failed = [f"failed: {t['name']}: {t['error']}" for t in trials if t["state"] == "failed"]
    return [*ranking_lines(document["ranking"]), *lines, *failed] if "ranking" in document else [*lines, *failed]


RANKED_LINES = 20


def ranking_lines(ranking: dict[str, Any]) -> list[str]:
    """Ranking of systems (`report.ranking`) -> lines: what it is by, and the first of them."""
    systems = ranking["systems"]
    rows = [
        [
            f"{place}. {row['system']}",
            row["seeds"],
            format_number(row["validation_auroc"]),
            format_percent(row["validation_score"]),
            *(format_percent(row[name]) for name in FIGURES),
            constant_words(row["constant_predictions"], row["seeds"]),
        ]
        for place, row in enumerate(systems[:RANKED_LINES], start=1)
    ]
    rows.append(["every cycle called normal", "", "0.500", "50.0", "100.0", "0.0", "50.0", ""])
    head = ["system", "seeds", "val. AUROC", "val. Score", *(f"test {name}" for name in FIGURES), "constant answers"]
    rest = len(systems) - RANKED_LINES
    return [ranking["order"], "", *format_table(head, rows), *([f"and {rest} more: --json"] if rest > 0 else []), ""]


def constant_words(called: list[str], seeds: int) -> str:
    """Classes that some of so many seeds call every test cycle -> "2 of 5 all normal"; "" if none does."""
    return f"{len(called)} of {seeds} all {' or '.join(sorted(set(called)))}" if called else ""


def protocol_table_lines(document: dict[str, Any]) -> list[str]:
    """A protocol study -> lines: strict Scores by split, failures, where the page is."""
    strict = [row for row in document["rows"] if row["scoring"] == "strict"]
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in strict:
        found.setdefault((row["split"], row["system"]), {})[row["selection"]] = row
    splits = list(dict.fromkeys(split for split, _ in found))

    lines = []
    for (split, system), by_selection in sorted(found.items(), key=lambda item: splits.index(item[0][0])):
        own = by_selection.get("validation") or by_selection["fixed"]
        scores = [
            f"{by_selection[name]['score']:.1f}" if name in by_selection else "" for name in ("last", "test_best")
        ]
        worth = "" if own.get("worth") is None else f"{own['worth']:+.1f}"
        interval = f"{own['score_low'] or 0:.1f} to {own['score_high'] or 0:.1f}"
        lines.append(
            [
                split.replace("_", ": ", 1) if own["leaky"] else split,
                system,
                f"{own['score']:.1f}",
                interval,
                *scores,
                worth,
            ]
        )

    head = ["split", "system", "Score", "95 %", "last epoch", "best on test", "worth"]
    failed = [f"failed: {t['name']}: {t['error']}" for t in document["trials"] if t["state"] == "failed"]
    return [
        *format_table(head, lines),
        "Score: strict, epoch by validation cycles; worth: against the first split of the study",
        "every cycle called normal: 50.0",
        *failed,
        f"page: {document['page']}",
        NOT_A_DIAGNOSIS,
    ]


def cross_lines(document: dict[str, Any]) -> list[str]:
    """A study across databases -> lines: the figures of each pair, what must be known of them, where the page is."""
    lines = []
    for row in document["rows"]:
        scores = ["" if row[name] is None else f"{100 * row[name]:.1f}" for name in FIGURES]
        areas = ["" if row[f"auroc_{name}"] is None else f"{row[f'auroc_{name}']:.3f}" for name in FINDINGS]
        tested = f"{row['tested']} {row['unit']}, {count_noun(row['patients'], 'patient')}"
        lines.append([row["system"], row["trained_on"], row["tested_on"], tested, *scores, *areas])
    head = ["system", "trained on", "tested on", "", "SP", "SE", "Score", *(f"AUROC {name}" for name in FINDINGS)]
    return [
        *format_table(head, lines),
        *document["notes"],
        *(f"failed: {each}" for each in document["failed"]),
        f"page: {document['page']}, with intervals by patient",
        NOT_A_DIAGNOSIS,
    ]


def layer_lines(document: dict[str, Any]) -> list[str]:
    """A layer search -> lines: the best subset of each size, the learned weights, the notes."""
    best: dict[int, dict[str, Any]] = {}
    for row in document["subsets"]:
        best.setdefault(row["size"], row)
    rows = [
        [row["layers"], *format_percents(row), format_percent(row["score_sd"]), format_number(row["auroc"])]
        for _, row in sorted(best.items())
    ]
    lines = format_table(["best of each size", *FIGURES, "SD over folds", "AUROC"], rows)
    lost = [
        [row["layer"], format_number(row["auroc"]), format_number(row["auroc_sd"])] for row in document["leave_one_out"]
    ]
    lines += ["", *format_table(["without layer", "AUROC lost", "SD over folds"], lost)]
    learned = document["learned"]
    shares = "  ".join(
        f"{layer}: {share:.3f}" for layer, share in zip(learned["layers"], learned["normalised"], strict=True)
    )
    lines += ["", f"learned weights (sum 1), Score {format_percent(learned['score'])}:", shares, ""]
    notes = [*document["notes"], *frozen_probe_lines(document["notes"])]
    return [*lines, *notes, "", f"all subsets: {document['out']}/subsets.csv", NOT_A_DIAGNOSIS]


def frozen_probe_lines(notes: list[str]) -> list[str]:
    """Notes of a layer search -> a line of what others' frozen encoders have; none on other data than the database."""
    from rales.report.literature import read_frozen_probes

    if "Not the whole ICBHI 2017 database." in notes:
        return []
    found = "; ".join(f"{encoder} {score}" for encoder, score, *_ in read_frozen_probes())
    return [f"Published Scores of frozen encoders on the official test side, second-hand: {found}."]


def weight_lines(document: dict[str, Any]) -> list[str]:
    """Public checkpoints -> lines."""
    lines = []
    for row in document["weights"]:
        size = f"{row['size_bytes'] / 2**20:.0f} MiB" if row.get("size_bytes") else "size unknown"
        lines += [
            f"{row['name']}{' (' + row['alias'] + ')' if row.get('alias') else ''}: {row['note']}",
            f"    {row['address']} ({size}, SHA-256 {row.get('sha256') or 'not known yet'})",
            f"    licence: {row['licence']}",
            f"    {'here: ' + str(row['path']) if row.get('path') else 'not fetched'}",
        ]
    return lines


def segment_lines(found: dict[str, Any]) -> list[str]:
    """What `rales segments` cut -> lines."""
    total = sum(found["counts"].values())
    by_label = ", ".join(f"{count} {name}" for name, count in found["counts"].items())
    if not total:
        why = "none of them is judged or probable enough" if found["cycles"] else "no cycle was found"
        return [f"nothing was cut: {count_noun(found['cycles'], 'cycle')}, {why}", "", found["notice"]]
    return [f"{count_noun(total, 'clip')} in {found['out']}: {by_label}", "", found["notice"]]


def database_lines(document: dict[str, Any]) -> list[str]:
    """Public databases, and what is wrong with a downloaded one -> lines."""
    lines = []
    for row in document["databases"]:
        lines += [
            f"{row['word']}: {row['name']}",
            f"    {row['recordings']:,} recordings ({row['size']}): {row['holds']}",
            f"    licence: {row['licence']}",
            f"    get it from {', '.join(row['where'])}; {row['note']}",
            f"    cite {row['cite']}",
        ]
    if "folder" in document:
        lines += document["problems"] or [f"{document['folder']}: as published"]
    return lines


def doctor_lines(found: dict[str, Any]) -> list[str]:
    """What `rales doctor` found -> lines."""
    numbers = {name: "not installed" if it == "unknown" else it for name, it in found["versions"].items()}
    versions = ", ".join(f"{name} {number}" for name, number in numbers.items())
    there = [extra for extra, missing in found["extras"].items() if not missing]
    lacking = [extra for extra, missing in found["extras"].items() if missing]
    difference = found["self_check"]["difference"]
    lines = [
        f"system: {found['system']}",
        f"versions: {versions}",
        f"extras: {', '.join(there) or 'none'}; not installed: {', '.join(lacking) or 'none'}",
        *(f"device: {device}" for device in found["devices"]),
        *(
            f"{name}: {place['path']} ({place['free_bytes'] / 10**9:.1f} GB free)"
            for name, place in found["folders"].items()
        ),
    ]
    if difference is not None:
        lines.append(f"known sound: {found['self_check']['model']} answers within {difference:.4f} of what it should")
    lines += [f"note: {note}" for note in found["notes"]]
    lines += [f"problem: {problem}" for problem in found["problems"]] or ["all is well"]
    return [*lines, "", NOT_A_DIAGNOSIS]


def export_lines(document: dict[str, Any]) -> list[str]:
    """What `rales export` wrote -> lines: files, how far the answers are from float32, every flipped label."""
    lines = [
        f"{' and '.join(document['files'])}: {document['format']} {document['precision']}, "
        f"{document['bytes'] / 2**20:.1f} MiB",
        f"on made-up clips at most {document['probe_difference']:.1e} from the network in float32",
    ]
    if drift := document["drift"]:
        lines.append(
            f"on {drift['cycles']} test cycles at most {drift['max_difference']:.1e}, on average "
            f"{drift['mean_difference']:.1e}; {len(drift['flips'])} labels flip"
        )
        lines += [
            f"  {flip['recording']} cycle {flip['cycle']}: {flip['from']} to {flip['to']}, {flip['margin']:.4f} apart"
            for flip in drift["flips"]
        ]
    return [*lines, document["notice"]]


def bench_lines(document: dict[str, Any]) -> list[str]:
    """Speed of a machine's paths -> lines: the machine and its peaks, a table, the path from the disk."""
    machine, peaks = document["machine"], document["peak_gflops"]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads of {machine['processors']}, load {machine['load']:.1f}",
        f"units: {', '.join(machine['units']) or 'unknown'}; torch's bfloat16 "
        + ("pays" if machine["bf16_pays"] else "does not pay"),
        "largest products reach "
        + ", ".join(f"{name} {value:.0f}" for name, value in peaks.items() if value)
        + " GFLOP/s",
        f"{document['model']}: {document['gflop_a_clip']:.1f} GFLOP a clip",
        f"times as fast as {document['times_as_fast_as']}:",
        "",
    ]
    rows = [
        [
            row["path"],
            row["batch"],
            f"{row['ms_a_clip']:.1f}",
            f"{row['times']:.2f}",
            f"{row['gflops']:.0f}",
            format_percent(row["share_of_peak"]),
        ]
        for row in document["rows"]
    ]
    lines += format_table(["path", "batch", "ms a clip", "times as fast", "GFLOP/s", "% of peak"], rows)
    rows = [[row["path"], f"{row['seconds']:.3f}", f"{row['times_real_time']:.0f}"] for row in document["from_disk"]]
    lines += ["", *format_table(["recording of 20 s on disk to table", "seconds", "times real time"], rows)]
    return lines + [f"left out: {sentence}" for sentence in document["left_out"]]


def format_table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """Column names and cells -> aligned lines, first column left, the rest right."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    aligned = []
    for row in cells:
        first, *others = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        aligned.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    return aligned


def format_percents(part: dict[str, Any]) -> list[str]:
    return [format_percent(part[name]) for name in FIGURES]


def format_percent(fraction: float | None) -> str:
    return "-" if fraction is None or fraction != fraction else f"{100 * fraction:.1f}"


def format_number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"


def format_interval(ends: list[float]) -> str:
    low, high = format_percent(ends[0]), format_percent(ends[1])
    return "no interval" if "-" in (low, high) else f"{low} to {high}"

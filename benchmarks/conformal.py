"""Coverage of prediction sets on patients whom a model has not heard: python benchmarks/conformal.py MODEL DATA…

Of every data set the test side counts, or all of it where it has none. First the sets that the model's own record
makes, per device. Then what ten confirmed patients of that data set are worth: ten are drawn, taught from, and the sets
of the others counted, many times over; 90 % of a new patient's cycles are promised on average over such draws.
"""

import argparse

import numpy as np
import pandas as pd

from rales.cli.result_lines import format_table, set_lines
from rales.data.dataset import class_numbers, load_dataset
from rales.evaluation.conformal import fit_conformal, measure_sets
from rales.inference.calibrate import read_labelled_cycles
from rales.inference.evaluate import score_sides
from rales.inference.load_model import load_model
from rales.inference.predictor import Predictor
from rales.typing import Probabilities

COVERAGE = "0.9"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", nargs="+")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--patients", type=int, default=10, help="that are drawn to teach")
    options = parser.parse_args()
    model = load_model(options.model, "cpu")
    for data in options.data:
        cycles = read_labelled_cycles(data, model.label_set, skip_damaged=True)
        rows = cycles[cycles["split"] == "test"] if (cycles["split"] == "test").any() else cycles
        measure_clinic(model, rows.reset_index(drop=True), data, options.patients, options.draws)


def measure_clinic(model: Predictor, rows: pd.DataFrame, name: str, patients: int, draws: int) -> None:
    """Print both measures of the labelled cycles of one data set."""
    dataset = load_dataset(rows.assign(split=""), model.recipe)
    p = score_sides(model, rows, dataset, {"all": pd.Series(data=True, index=rows.index)})["all"]
    print(f"\n{name}: {len(rows)} cycles of {rows['patient'].nunique()} patients")
    known, true = model.calibration.get("conformal"), class_numbers(rows, model.label_set)
    devices = rows["device"].fillna("").replace("", "unknown")
    if known:
        print("\n".join(set_lines(measure_sets(p, true, rows["patient"], devices, known, model.label_set))))
    print(f"\ntaught by {patients} of these patients, {draws} draws:")
    print("\n".join(measure_draws(rows.assign(device=devices), p, model, patients, draws)))


def measure_draws(rows: pd.DataFrame, p: Probabilities, model: Predictor, patients: int, draws: int) -> list[str]:
    """Labelled cycles and their probabilities -> lines: coverage and size of the others' sets, per device."""
    names, true = rows["patient"].to_numpy(), class_numbers(rows, model.label_set)
    random, found = np.random.default_rng(0), dict[str, list[tuple[float, float]]]()
    for _ in range(draws):
        teach = np.isin(names, random.choice(np.unique(names), patients, replace=False))
        learned = fit_conformal(p[teach], true[teach], names[teach], None, model.label_set)
        record = {"pooled": vars(learned.pooled), "devices": {}}
        others = (p[~teach], true[~teach], names[~teach], rows["device"].to_numpy()[~teach])
        for device, one in measure_sets(*others, record, model.label_set)[COVERAGE].items():
            found.setdefault(device, []).append((one["coverage"], one["mean_size"]))
    lines = []
    for device, pairs in found.items():
        covered, sizes = np.array(pairs).T
        low, high = np.quantile(covered, [0.05, 0.95])
        lines.append([device, f"{covered.mean():.3f}", f"{low:.3f} to {high:.3f}", f"{sizes.mean():.2f}"])
    return format_table(["", "covered, mean of draws", "5 % to 95 % of draws", "labels in a set"], lines)


if __name__ == "__main__":
    main()

"""A finished model's answers for whole recordings, learned from recordings of patients whom it was not trained on.

Of the first ICBHI folder these are the validation patients, as make_default_model.py holds them out; of every further
one the recordings on the train side of patients who are not in the first. The checkpoint gets what is learned in its
record, beside temperature and threshold; weights and digest stay.

    python scripts/fit_recording_answers.py src/rales/default/model.safetensors ICBHI_final_database
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rales.data import read_cycles, splits
from rales.data.dataset import load_dataset
from rales.evaluation import predictions, recordings
from rales.inference.load_model import load_model
from rales.training.trained_model import save_calibration


def fit_recording_answers(checkpoint: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """Checkpoint and ICBHI folders as above -> what was learned, which is then in the checkpoint's record."""
    model = load_model(checkpoint, "cpu")
    cycles = choose_cycles([read_cycles(folder) for folder in folders])
    dataset = load_dataset(cycles.assign(split=""), model.recipe)
    table = predictions.predictions_table(cycles, model.probabilities(dataset.inputs), model.decision())
    learned = recordings.fit_pooling(table)

    save_calibration(checkpoint, {**model.calibration, "recordings": learned}, checkpoint)
    return learned


def choose_cycles(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Cycles of the folders -> those to learn from."""
    first = splits.hold_out_validation(splits.split_officially(tables[0]))
    known = set(first["patient"])
    further = [rows[(rows["split"] == "train") & ~rows["patient"].isin(known)] for rows in tables[1:]]
    return pd.concat([first[first["split"] == "validation"], *further], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="file that gets what is learned")
    parser.add_argument("folders", type=Path, nargs="+", help="folders in ICBHI layout")
    options = parser.parse_args()
    print(recordings.pooling_notice(fit_recording_answers(options.checkpoint, options.folders)))


if __name__ == "__main__":
    main()

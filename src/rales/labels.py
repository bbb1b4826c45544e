"""Label sets: the classes that a run tells apart, in the order of every table, matrix and network of it."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # the command lists its options without it
    import numpy as np
    from numpy.typing import NDArray

CLASSES: Final = ("normal", "crackle", "wheeze", "both")
NOTHING = "normal"  # the label of a row that has none of several independent classes
JOINED = "+"  # between the independent classes that one row has
MOST_CLASSES = 20
LONGEST_NAME = 40  # of a class, in letters
# beside the counts of classes in a summary of recordings; `abnormal` counts what a class of that name does, and more
SUMMARY_COLUMNS = ("recording", "path", "cycles", "not_judged", "uncertain", "abnormal_share", "low", "high")
MISSING_WORDS = ("n/a", "na", "nan", "none", "null")  # what table readers take for an empty cell
FLAG_WORDS = ("crackle", "wheeze", "both", "abnormal")  # what two flags, crackles and wheezes, can say
POOR = "poor quality"
TASKS: Final = {  # a word for --classes -> the classes of a task of SPRSound's challenges
    "sprsound_1_1": (NOTHING, "abnormal"),
    "sprsound_1_2": (NOTHING, "rhonchi", "wheeze", "stridor", "coarse crackle", "fine crackle", "wheeze+crackle"),
    "sprsound_2_1": (NOTHING, POOR, "abnormal"),
    "sprsound_2_2": (NOTHING, POOR, "cas", "das", "cas & das"),
}
RECORDING_TASKS: Final = ("sprsound_2_1", "sprsound_2_2")  # their rows are whole recordings


def fold_word(word: str) -> str:
    """Name of a class -> what it shares with every other way to write it: case, spaces, _ and - are all one."""
    return re.sub(r"[\s_-]+", " ", word).strip().casefold()


@dataclass(frozen=True)
class LabelSet:
    """The classes of a run.

    Parameters
    ----------
    classes
        2 to 20 names, or 1 to 20 where they are independent. Of exclusive ones the first means that nothing abnormal is
        heard: specificity is its recall, sensitivity that of all others.
    independent
        Whether a row has any number of the classes (yes or no for each), or just one of them. A row's label is then the
        names of its classes joined by "+", and "normal" without any.
    """

    classes: tuple[str, ...] = CLASSES
    independent: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "LabelSet":
        """Record of a run or checkpoint -> its label set."""
        return cls(tuple(record.get("classes", CLASSES)), bool(record.get("independent", False)))

    def to_record(self) -> dict[str, Any]:
        """-> the fields of a record that `from_record` reads."""
        return {"classes": list(self.classes), **({"independent": True} if self.independent else {})}

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def is_icbhi(self) -> bool:
        """Whether these are the four classes of ICBHI 2017, whose label says whether crackles and wheezes are heard."""
        return self.classes == CLASSES and not self.independent

    @property
    def columns(self) -> tuple[str, ...]:
        """-> the probability columns of a prediction table."""
        return tuple(f"p_{name}" for name in self.classes)

    @property
    def task(self) -> str:
        """-> the task of SPRSound's challenges whose classes these are, in any order after the first; "" if none."""
        words = tuple(map(fold_word, self.classes))
        same = (name for name, theirs in TASKS.items() if words[:1] == theirs[:1] and set(words) == set(theirs))
        return "" if self.independent else next(same, "")

    @property
    def normal(self) -> str:
        """-> the label of a row without anything abnormal."""
        return NOTHING if self.independent else self.classes[0]

    @property
    def abnormal(self) -> tuple[str, ...]:
        """-> the classes that are findings."""
        return self.classes if self.independent else self.classes[1:]

    @property
    def findings(self) -> dict[str, tuple[int, ...]]:
        """-> what thresholds are for: name of a finding -> numbers of the classes that have it; of ICBHI crackles and
        wheezes, of other sets each class that is a finding."""
        if self.is_icbhi:
            return {name: (CLASSES.index(name), CLASSES.index("both")) for name in ("crackle", "wheeze")}
        return {name: (self.classes.index(name),) for name in self.abnormal}

    def describe_problem(self) -> str:
        """-> what is wrong with the names, "" if nothing is."""
        least = 1 if self.independent else 2
        if not least <= len(self.classes) <= MOST_CLASSES:
            return f"{len(self.classes)} class{'es' * (len(self.classes) != 1)}; expected {least} to {MOST_CLASSES}"
        forbidden = ',;="()[]/\\' + JOINED * self.independent  # classes name folders, too
        for name in self.classes:
            if not name.isprintable() or not name[:1].isalnum() or name != name.strip() or set(name) & set(forbidden):
                return (
                    f"{name!r} cannot be the name of a class; expected words that begin with a letter or digit, "
                    f"without {' '.join(forbidden)}"
                )
            if fold_word(name) in MISSING_WORDS:
                return f"{name!r} cannot be the name of a class: programs that read tables take it for an empty cell"
            if fold_word(name).replace(" ", "_") in SUMMARY_COLUMNS:
                return f"{name!r} cannot be the name of a class: tables of recordings have another column of that name"
            if len(name) > LONGEST_NAME:
                return f"the class {name!r} has {len(name)} letters, expected at most {LONGEST_NAME}"

        words = [fold_word(name) for name in self.classes]
        if doubled := [name for name, word in zip(self.classes, words, strict=True) if words.count(word) > 1]:
            return f"the class {doubled[-1]!r} is named twice (case, spaces, _ and - make no difference)"
        if not self.independent and (NOTHING in words[1:] or words[0] in FLAG_WORDS):
            finding = self.classes[0]
            return f"the first class means that nothing abnormal is heard, and that is not {finding!r}; put it later"
        if self.independent and NOTHING in words:
            return f"{NOTHING!r} cannot be one of several independent classes: it is the label of a row without any"
        return ""

    @property
    def follows_flags(self) -> bool:
        """Whether crackles and wheezes alone decide the label, so that data without words have one too."""
        return all(fold_word(name) in FLAG_WORDS for name in self.abnormal)

    def find_label(self, word: str) -> str | None:
        """Word of a dataset -> the label of this set that it stands for, None if it is none of them.

        Case, spaces, _ and - make no difference. Of independent classes a word may name several, joined by "+".
        """
        known = {fold_word(name): name for name in (*self.classes, self.normal)}
        if fold_word(word) in known or not self.independent:
            return known.get(fold_word(word))
        parts = {known.get(fold_word(part), "") for part in word.split(JOINED)}
        return JOINED.join(name for name in self.classes if name in parts) if parts <= set(self.classes) else None

    def label_flags(self, crackle: int, wheeze: int) -> str | None:
        """Crackles and wheezes, 0 or 1 -> the label of this set that they stand for, None if it has none."""
        heard = {"crackle": crackle, "wheeze": wheeze, "abnormal": crackle or wheeze}
        if self.independent:
            names = [name for name in self.classes if heard.get(fold_word(name))]
            # one of several questions is answered no; but nothing is said of what the classes are not about
            return JOINED.join(names) or (self.normal if self.follows_flags or not heard["abnormal"] else None)
        known = {fold_word(name): name for name in self.abnormal}
        word = CLASSES[crackle + 2 * wheeze]
        return self.normal if word == NOTHING else known.get(word) or known.get("abnormal")

    def label_cycle(self, word: str, crackle: int | None, wheeze: int | None) -> str:
        """Own word of a dataset for a cycle ("" for none) and its flags (None where unknown) -> the label of this set.

        The word counts, the flags where there is none; but flags first where they alone decide the label. Errors: a
        ValueError that says why it has none of the classes, and names the nearest.
        """
        flagged = None if crackle is None or wheeze is None else self.label_flags(crackle, wheeze)
        if flagged and (self.follows_flags or not word):
            return flagged
        if word and (found := self.find_label(word)):
            return found
        if not word and crackle is None:
            raise ValueError("has neither a word nor flags for what is heard")
        what = f"label {word!r}" if word else f"crackle {crackle} and wheeze {wheeze}, without a word,"
        close = difflib.get_close_matches(fold_word(word), [fold_word(name) for name in self.classes], n=1)
        guess = next((f"did you mean {name}? " for name in self.classes if fold_word(name) in close), "")
        others = " (other classes are named by --classes)" if self.is_icbhi else ""
        raise ValueError(f"{what} is none of the classes; {guess}Known: {', '.join(self.classes)}{others}")

    def count_labels(self, labels: Iterable[str]) -> dict[str, int]:
        """Labels of rows -> how many rows there are of each class; of independent ones also how many have none."""
        counts = dict.fromkeys((self.normal, *self.abnormal), 0)
        for label in labels:
            for name in label.split(JOINED) if self.independent else [label]:
                counts[name] += 1
        return counts

    def make_targets(self, labels: Sequence[str]) -> "NDArray[np.int64]":
        """Labels of n rows -> (n,) class numbers, or (n, classes) of 0 and 1 where they are independent.

        Errors: a ValueError for a label that is none of these.
        """
        import numpy as np

        if not self.independent:
            numbers = {name: number for number, name in enumerate(self.classes)}
            if unknown := sorted({label for label in labels if label not in numbers}):
                raise ValueError(f"label {unknown[0]!r} is none of {', '.join(self.classes)}")
            return np.array([numbers[label] for label in labels], np.int64)

        targets = np.zeros((len(labels), len(self.classes)), np.int64)
        for row, label in enumerate(labels):
            for name in [] if label == NOTHING else label.split(JOINED):
                if name not in self.classes:
                    raise ValueError(f"label {label!r}: {name!r} is none of {', '.join(self.classes)}")
                targets[row, self.classes.index(name)] = 1
        return targets

    def encode_rows(self, targets: "NDArray[np.int64]") -> "NDArray[np.int64]":
        """Targets of n rows -> (n,) one number for each combination of classes, 0 for a row without anything abnormal:
        what is strictly right has the same number."""
        import numpy as np

        return targets @ (1 << np.arange(len(self))) if self.independent else targets

    def name_targets(self, targets: "NDArray[np.int64]") -> list[str]:
        """Undo `make_targets`."""
        if not self.independent:
            return [self.classes[number] for number in targets]
        return [
            JOINED.join(name for name, has in zip(self.classes, row, strict=True) if has) or NOTHING for row in targets
        ]


ICBHI: Final = LabelSet()

"""Label sets: the classes that a run tells apart, in the order of every table, matrix and network of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = ("normal", "crackle", "wheeze", "both")
NOTHING = "normal"  # the label of a row that has none of several independent classes
JOINED = "+"  # between the independent classes that one row has
MOST_CLASSES = 20


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
        """Whether these are the four classes of ICBHI 2017, for which crackles and wheezes can be told from the label."""
        return self.classes == CLASSES and not self.independent

    @property
    def columns(self) -> tuple[str, ...]:
        """-> the probability columns of a prediction table."""
        return tuple(f"p_{name}" for name in self.classes)

    @property
    def normal(self) -> str:
        """-> the label of a row without anything abnormal."""
        return NOTHING if self.independent else self.classes[0]

    @property
    def abnormal(self) -> tuple[str, ...]:
        """-> the classes that are findings."""
        return self.classes if self.independent else self.classes[1:]

    def describe_problem(self) -> str:
        """-> what is wrong with the names, "" if nothing is."""
        least = 1 if self.independent else 2
        if not least <= len(self.classes) <= MOST_CLASSES:
            return f"{len(self.classes)} classes; expected {least} to {MOST_CLASSES}"
        for name in self.classes:
            if not name or name != name.strip() or not name.isprintable() or any(mark in name for mark in '+,;="'):
                return f"{name!r} cannot be the name of a class; expected words without + , ; = and quotes"
        if len(set(self.classes)) < len(self.classes):
            return "a class is named twice"
        if self.independent and NOTHING in self.classes:
            return f"{NOTHING!r} cannot be one of several independent classes: it is the label of a row without any"
        return ""

    def make_targets(self, labels: Sequence[str]) -> NDArray[np.int64]:
        """Labels of n rows -> (n,) class numbers, or (n, classes) of 0 and 1 where they are independent.

        Errors: a ValueError for a label that is none of these.
        """
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

    def name_targets(self, targets: NDArray[np.int64]) -> list[str]:
        """Undo `make_targets`."""
        if not self.independent:
            return [self.classes[number] for number in targets]
        return [
            JOINED.join(name for name, has in zip(self.classes, row, strict=True) if has) or NOTHING for row in targets
        ]


ICBHI: Final = LabelSet()

"""A YAML file of settings (`--config rales.yaml`), by the names that `--set` takes, dotted or nested:

size: tiny
train:
  lr: 1e-3
split.name: folds
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rales.errors import FileError, MissingFileError, SettingError, UsageError


class SettingsFile(NamedTuple):
    """What a file says: dotted name -> value in words, and the line it is in."""

    path: Path
    values: dict[str, str]
    lines: dict[str, int]

    @contextmanager
    def name_lines(self) -> Iterator[None]:
        """Inside `with`, what is wrong with a setting of the file is said of its line."""
        try:
            yield
        except SettingError as error:
            if error.name not in self.values:
                raise
            place = f"{self.path}, line {self.lines[error.name]}"
            raise UsageError(f"{place}: {error.describe()}") from error

    def rename(self, expand: Callable[[str], str]) -> "SettingsFile":
        """-> the same by the names that `expand` makes of its own."""
        values = {expand(name): value for name, value in self.values.items()}
        return self._replace(values=values, lines={expand(name): line for name, line in self.lines.items()})

    def leave_to(self, others: Iterable[str]) -> tuple["SettingsFile", list[str]]:
        """`name=value` words that win over the file -> the file without those names, and a sentence for each that it
        has otherwise."""
        theirs = {
            name.strip(): value.strip() for name, equals, value in (word.partition("=") for word in others) if equals
        }
        kept = {name: value for name, value in self.values.items() if name not in theirs}
        notes = [
            f"{self.path}, line {self.lines[name]}: {name}={value} does not count; {theirs[name]} is given beside it"
            for name, value in self.values.items()
            if name in theirs and theirs[name] != value
        ]
        return self._replace(values=kept), notes


def read_settings_file(path: str | Path) -> SettingsFile:
    """YAML (or JSON) file -> its settings. Errors: no such file, no YAML, a name without a value or that stands there
    twice, values that are neither plain nor lists of plain ones."""
    import yaml

    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise FileError(path, "has an alias (*name), which is not read; write the value again")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingFileError(path, "no such file of settings") from error
    except UnicodeDecodeError as error:
        raise FileError(path, f"not a UTF-8 text file (byte {error.start + 1} cannot be read)") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise FileError(path, f"no YAML ({problem})", mark.line + 1 if mark else None) from None

    found = SettingsFile(path, {}, {})
    if root is not None:
        _collect(found, root, "")
    return found


def _collect(found: SettingsFile, node: Any, prefix: str) -> None:
    """A mapping of the file, and the dotted name before it -> its settings, added to `found`."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        raise FileError(found.path, "expected `name: value` in every line", node.start_mark.line + 1)
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise FileError(found.path, "a name that is no word; expected `name: value`", line)
        name = prefix + key.value
        if isinstance(value, yaml.MappingNode):
            _collect(found, value, f"{name}.")
            continue
        if name in found.values:
            raise FileError(found.path, f"{name} stands there again, first in line {found.lines[name]}; keep one", line)
        parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not all(isinstance(part, yaml.ScalarNode) for part in parts):
            raise FileError(found.path, f"{name}: a list of lists or names; expected plain values", line)
        if value.tag == "tag:yaml.org,2002:null":
            raise FileError(found.path, f"{name} has no value; give one or remove the line", line)
        found.values[name] = ",".join(part.value for part in parts)
        found.lines[name] = line

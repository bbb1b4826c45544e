"""The size of the package and how its names read, from its syntax trees alone.

    python scripts/measure_code.py            # the package
    python scripts/measure_code.py src/rales/audio

Prints the lines, the fraction of module-level functions whose name is one word, the functions and classes that are
defined at module level in three or more files, and the functions of more than 60 lines beside their docstring.
"""

import ast
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "rales"
MOST_LINES = 60
MANY_FILES = 3
Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_one_word(name: str) -> bool:
    """Name of a function -> whether it is a single word, a leading underscore aside."""
    return "_" not in name.strip("_")


def count_lines(function: Function) -> int:
    """Function -> its lines from `def` to the end of its body, without its docstring, which may be a help text."""
    text = ast.get_docstring(function, clean=False) or ""
    docstring = len(text.split("\n")) if text else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - docstring


def print_measures(root: Path) -> None:
    """Folder of Python files -> the four measures on stdout."""
    trees = {path: ast.parse(path.read_bytes()) for path in sorted(root.rglob("*.py"))}
    lines = sum(path.read_bytes().count(b"\n") for path in trees)

    # Methods and inner functions are left out of the names: the class or the function around them says what they do.
    tops = {
        path: [node for node in tree.body if isinstance(node, Function | ast.ClassDef)] for path, tree in trees.items()
    }
    functions = [(path, node.name) for path, nodes in tops.items() for node in nodes if isinstance(node, Function)]
    one_word = [(path, name) for path, name in functions if is_one_word(name)]
    files_of = Counter(name for nodes in tops.values() for name in {node.name for node in nodes})
    repeated = {name: count for name, count in files_of.most_common() if count >= MANY_FILES}

    long = [
        (count_lines(node), f"{path.relative_to(root)}:{node.lineno} {node.name}")
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, Function) and count_lines(node) > MOST_LINES
    ]

    print(f"{lines} lines in {len(trees)} files")
    print(f"{len(one_word)} of {len(functions)} module-level functions have a one-word name")
    for part, count in Counter(path.relative_to(root).parts[0] for path, _ in one_word).most_common():
        print(f"  {count:4} {part}")
    print(f"{len(repeated)} names are defined in {MANY_FILES} or more files")
    print("  " + ", ".join(f"{name} ({count})" for name, count in repeated.items()))
    print(f"{len(long)} functions of more than {MOST_LINES} lines")
    for length, where in sorted(long, reverse=True):
        print(f"  {length:4} {where}")


if __name__ == "__main__":
    print_measures(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE)

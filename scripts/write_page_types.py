"""Write what the page may rely on as TypeScript: the element behind every id of index.html, what every route of the
service takes and answers. `make lint` holds the scripts of the page against it.

python scripts/write_page_types.py build/page.d.ts
"""

import json
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
    schemas = service["components"]["schemas"].items()
    paths = sorted(service["paths"], key=lambda path: (path.count("{"), path))  # /runs/report before /runs/{run}
    routes = [
        f"  Request extends {write_request(method.upper(), path)} ? {write_route(operation)} :"
        for path in paths
        for method, operation in service["paths"][path].items()
    ]
    return "\n".join(
        [
            "interface PageElements {",
            *elements,
            "}",
            "declare namespace Service {",
            *(write_record(name, schema) for name, schema in schemas),
            "type Route<Request> =",
            *routes,
            "  never;",
            "}",
            "declare namespace Sent {",
            *(write_record(name, schema, sent=True) for name, schema in schemas),
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


def write_record(name: str, schema: dict[str, Any], sent: bool = False) -> str:
    """A record of the description -> an interface. The service leaves no field out; who sends it a record may leave out
    those with a default."""
    required = schema.get("required", []) if sent else schema.get("properties", {})
    fields = [
        f"  {field}{'' if field in required else '?'}: {write_type(part)};"
        for field, part in schema.get("properties", {}).items()
        if field[:2] != "p_"
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


def write_request(method: str, path: str) -> str:
    """GET, /recordings/{recording} -> the type of a request for it in parts, ["GET", "recordings", string]."""
    parts = ["string" if part[:1] == "{" else json.dumps(part) for part in path.split("/")[1:]]
    return f"[{', '.join([json.dumps(method), *parts])}]"


def write_route(operation: dict[str, Any]) -> str:
    """-> what is sent, as the rest of the arguments of `call` (api.js), and what is answered."""
    answers = next(answer.get("content", {}) for status, answer in operation["responses"].items() if status[0] == "2")
    answer = write_type(answers["application/json"].get("schema", {})) if "application/json" in answers else "null"
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        sends = f"[body: Sent.{write_type(content['application/json']['schema'])}]"
    else:
        kinds = {"multipart/form-data": "FormData", "application/octet-stream": "ArrayBufferView<ArrayBuffer>"}
        sends = f"[{', '.join(f'body: {kinds[kind]}' for kind in content)}]"
    return f"{{ sends: {sends}; answer: {answer} }}"


if __name__ == "__main__":
    from fastapi import FastAPI
    from fastapi.routing import APIRoute

    from rales.web.app import create_app
    from rales.web.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(folder=Path(folder))).app
        assert isinstance(app, FastAPI)
        description = app.openapi()
    for route in app.routes:
        if isinstance(route, APIRoute) and not route.include_in_schema:  # a stream without end, the page itself
            description["paths"][route.path] = {
                method.lower(): {"responses": {"200": {}}} for method in route.methods or ()
            }
    Path(sys.argv[1]).parent.mkdir(exist_ok=True)
    Path(sys.argv[1]).write_text(
        write_page_types((STATIC / "index.html").read_text(encoding="utf-8"), description), encoding="utf-8"
    )

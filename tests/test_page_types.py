"""What the page's scripts are held against says what the service and index.html have."""

from write_page_types import write_page_types

PAGE = '<main id="main"><input id="name"><p>no id</p></main>'
SPAN = {
    "properties": {
        "start_s": {"type": "number"},
        "label": {"anyOf": [{"type": "string", "enum": ["normal", "crackle", "wheeze", "both"]}, {"type": "null"}]},
        "status": {"type": "string", "enum": ["waiting", "ready"]},
        "taken": {"prefixItems": [{"type": "integer"}, {"type": "integer"}], "type": "array"},
        "findings": {"type": "object", "additionalProperties": {"type": "integer"}},
        "p_normal": {"type": "number"},
    },
    "additionalProperties": True,
}
SPANS = {"type": "array", "items": {"$ref": "#/components/schemas/Span"}}
SPAN_ANSWER = {"content": {"application/json": {"schema": SPANS}}}
SERVICE = {
    "components": {"schemas": {"Span": SPAN}},
    "paths": {
        "/sessions/{session}": {"delete": {"responses": {"204": {}, "404": SPAN_ANSWER}}},
        "/sessions/{session}/spans": {"get": {"responses": {"200": SPAN_ANSWER}}},
    },
}
TYPES = """interface PageElements {
  "main": Tags["main"];
  "name": Tags["input"];
}
declare namespace Service {
interface Span {
  start_s: number;
  label: string | null;
  status: "waiting" | "ready";
  taken: [number, number];
  findings: Record<string, number>;
  [share: `p_${string}`]: number | null;
}
type Answer<R extends string> =
  R extends `GET /sessions/${string}/spans` | `GET /sessions/${string}/spans?${string}` ? (Span)[] :
  R extends `DELETE /sessions/${string}` | `DELETE /sessions/${string}?${string}` ? null :
  never;
}
"""


def test_ids_records_and_routes_become_types() -> None:
    assert write_page_types(PAGE, SERVICE) == TYPES

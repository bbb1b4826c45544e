"""Requests made up from the OpenAPI description, right and wrong ones: every answer is one that it announces."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.served import new_session, recording, upload

EXAMPLES = {GenerationMode.POSITIVE: 60, GenerationMode.NEGATIVE: 60}  # of each operation
# Times must fit the recording and files must hold sound, which a description cannot say
SENSELESS = [positive_data_acceptance]


@pytest.mark.parametrize("mode", list(EXAMPLES))
def test_the_service_is_as_described(client: httpx.Client, place: Path, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(described(client, place))
    schema.config.update(base_url=str(client.base_url), headers={"Authorization": client.headers["authorization"]})
    sound = recording(place).read_bytes()
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    if mode is GenerationMode.NEGATIVE:  # where nothing is sent, nothing can be wrong
        operations = [each for each in operations if each.body or any(map(can_be_wrong, each.iter_parameters()))]
    assert len(operations) >= 20
    reached: set[tuple[str, int]] = set()
    for operation in operations:

        @seed(0)
        @settings(max_examples=EXAMPLES[mode], deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def as_described(case: Any) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "audio" in case.body:
                case.body["audio"] = sound
            answer = case.call_and_validate(excluded_checks=SENSELESS)
            reached.add((case.method, answer.status_code))
            if answer.status_code >= 400:
                detail = answer.json()["detail"]
                assert isinstance(detail, str)
                assert len(detail) > 10

        as_described()
    statuses = {status for _, status in reached}
    assert statuses >= ({200, 201, 204, 404} if mode is GenerationMode.POSITIVE else {404, 415, 422})
    assert max(statuses) < 500
    assert client.get("/health").status_code == 200


def can_be_wrong(parameter: Any) -> bool:
    return bool(parameter.name.lower() != "authorization")  # the client's own


def described(client: httpx.Client, place: Path) -> dict[str, Any]:
    """-> the service's description, in which sessions and recordings are some that are there or an unknown one: those
    that may be removed and, for all else, one of its own."""
    schema: dict[str, Any] = client.get("/openapi.json").json()
    sound = recording(place)

    def some(many: int) -> dict[str, list[str]]:
        sessions = [new_session(client) for _ in range(many)]
        return {"session": sessions, "recording": [upload(client, session, sound)["id"] for session in sessions]}

    lasting, going = some(1), some(4)
    for operations in schema["paths"].values():
        for method, operation in operations.items():
            known = going if method == "delete" else lasting
            for parameter in operation.get("parameters", []):
                if parameter["name"] in known:
                    parameter["schema"] = {"enum": [*known[parameter["name"]], "x"]}
    return schema

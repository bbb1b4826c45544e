"""Many people who save annotations of one recording at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from rales.web.store import REVISIONS


def assert_none_lost(client: httpx.Client, recording: str, *, editors: int, saves: int, based: bool) -> int:
    """Every save that was confirmed has a revision of its own, and those that are kept hold what was sent.

    `based`: each editor names the revision that the save was made from, and makes it anew where another one stands.
    -> how often that was so.
    """
    refused = 0

    def edit(editor: int) -> list[tuple[int, Any]]:
        nonlocal refused
        done: list[tuple[int, Any]] = []
        while len(done) < saves:
            start_s = round((editor * saves + len(done)) * 0.001, 3)
            cycles = [{"start_s": start_s, "end_s": start_s + 1, "label": "wheeze", "confirmed": True}]
            body: dict[str, Any] = {"recording": recording, "cycles": cycles}
            if based:
                body["base"] = client.get(f"/recordings/{recording}").json()["revision"]
            answer = client.post("/annotations", json=body)
            if answer.status_code == 409:
                refused += 1
                continue
            assert answer.status_code == 201, answer.text
            done.append((answer.json()["revision"], start_s))
        return done

    first = client.get(f"/recordings/{recording}").json()["revision"]
    with ThreadPoolExecutor(editors) as pool:
        done = dict(each for found in pool.map(edit, range(editors)) for each in found)
    assert sorted(done) == list(range(first + 1, first + 1 + editors * saves))
    kept = client.get(f"/recordings/{recording}/revisions").json()
    assert [one["revision"] for one in kept[:-1]] == sorted(done, reverse=True)[:REVISIONS]
    for number in sorted(done)[-5:]:
        restored = client.post(f"/recordings/{recording}/revisions/{number}/restore")
        assert restored.status_code == 201, restored.text
        (cycle,) = client.get(f"/recordings/{recording}").json()["cycles"]
        assert cycle["start_s"] == done[number], json.dumps(cycle)
    return refused

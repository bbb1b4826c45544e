"""The arithmetic of docs/batch.md, against sums made by hand."""

from dataclasses import replace

import pytest
from benchmarks.cost_model import Job, count_requests, describe, estimate_hours, name_bottleneck

# 3,600 recordings of a second of a core each on 2 x 5 cores; each waits 0.5 s for its store and is 10 MB
SMALL = Job(
    recordings=3600,
    core_s=1.0,
    machines=2,
    cores=5,
    readers=2,
    latency_s=0.5,
    input_bytes=1e7,
    network_gb_s=0.01,
    store_requests_s=10.0,
    shard=100,
    driver_s=0.01,
    driver_bytes=1e6,
    core_hour_price=1.0,
    get_price=0.01,
    put_price=1.0,
)


def test_hours_of_each_resource_alone() -> None:
    assert estimate_hours(SMALL) == pytest.approx(
        {"cores": 0.1, "answers of the store": 0.025, "network cards": 0.5, "the store's requests": 3708 / 10 / 3600}
    )
    assert name_bottleneck(SMALL) == "network cards"
    assert name_bottleneck(replace(SMALL, input_bytes=1e6, store_requests_s=100)) == "cores"
    assert name_bottleneck(replace(SMALL, input_bytes=1e6, machines=200)) == "the store's requests"


def test_annotations_are_requests_and_a_second_wait() -> None:
    assert count_requests(SMALL) == (3600, 3 * 36)
    auto = replace(SMALL, cycles="auto", shard=3601)
    assert count_requests(auto) == (7 * 3600, 3)
    assert estimate_hours(auto)["answers of the store"] == pytest.approx(0.05)


def test_the_table_pays_for_machines_that_wait() -> None:
    rows = describe(SMALL)
    assert rows["hours, the driver's reading of the manifest included"] == "0.51"  # 0.5 and 36 s
    assert rows["price of the machines"] == "5"  # 10 cores for 0.51 h
    assert rows["price of the requests"] == "144.00"
    assert rows["memory of the driver, GB"] == "3.6"
    assert rows["read, GB a second"] == "0.02"

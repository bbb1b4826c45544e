"""What a batch job of very many recordings takes: hours, requests, bytes, memory and prices, and what is used up first.

    python benchmarks/cost_model.py                          # the table of docs/batch.md
    python benchmarks/cost_model.py --core-s 2.7 --machines 8 64 --cycles segment

Every figure that goes in is an option. Those of a recording and of the driver are measured (docs/batch.md says by which
command); those of machines and stores are common ones, to be replaced by one's own. What overlaps is not added up: the
job takes as long as what is slowest, after the driver has read the manifest.
"""

import argparse
from dataclasses import dataclass, fields, replace

HOUR_S, GB = 3600.0, 1e9
ANNOTATION_NAMES = 6  # that are asked for beside a recording of a store, at once, where its cycles may be annotated


@dataclass(frozen=True)
class Job:
    recordings: int = 10_000_000
    sound_s: float = 19.5  # a recording
    cycles_each: float = 7.4
    core_s: float = 0.04  # of one core a recording
    input_bytes: float = 1.72e6  # a recording: 16-bit WAV at 44.1 kHz
    row_bytes: float = 54.0  # a cycle, in Parquet
    cycles: str = "segment"  # auto: annotations are asked for, too
    shard: int = 1000
    machines: int = 8
    cores: int = 16  # a machine, each with a worker
    readers: int = 2  # requests at a time of a worker
    latency_s: float = 0.05  # from a request to the last byte of a recording
    network_gb_s: float = 1.25  # a machine: 10 Gbit/s
    store_requests_s: float = 5500.0  # that a store answers below one prefix
    driver_s: float = 6e-6  # a recording of the manifest, once, on one core
    driver_bytes: float = 300.0  # a recording of the manifest: its path, twice
    core_hour_price: float = 0.04
    get_price: float = 0.0004 / 1000
    put_price: float = 0.005 / 1000


def count_requests(job: Job) -> tuple[float, float]:
    """-> requests that read, and those that write (cycles, summary and status of every shard)."""
    names = ANNOTATION_NAMES if job.cycles == "auto" else 0
    return job.recordings * (1.0 + names), 3.0 * -(-job.recordings // job.shard)


def estimate_hours(job: Job) -> dict[str, float]:
    """-> hours that each resource alone would take, all others being endless."""
    workers, in_turn = job.machines * job.cores, 2 if job.cycles == "auto" else 1  # requests that wait for one another
    seconds = {
        "cores": job.recordings * job.core_s / workers,
        "answers of the store": job.recordings * in_turn * job.latency_s / (workers * job.readers),
        "network cards": job.recordings * job.input_bytes / GB / (job.machines * job.network_gb_s),
        "the store's requests": sum(count_requests(job)) / job.store_requests_s,
    }
    return {name: value / HOUR_S for name, value in seconds.items()}


def name_bottleneck(job: Job) -> str:
    """-> the resource that is used up first."""
    hours = estimate_hours(job)
    return max(hours, key=lambda name: hours[name])


def describe(job: Job) -> dict[str, str]:
    """-> the rows of the table."""
    hours, (gets, puts) = estimate_hours(job), count_requests(job)
    planning_h = job.recordings * job.driver_s / HOUR_S
    slowest, core_hours = name_bottleneck(job), job.recordings * job.core_s / HOUR_S
    longest_h = hours[slowest]
    paid_h = job.machines * job.cores * (longest_h + planning_h)  # machines that wait are paid, too
    return {
        "hours, the driver's reading of the manifest included": f"{longest_h + planning_h:.2f}",
        "used up first": slowest,
        **{f"hours, {name} alone": f"{value:.2f}" for name, value in hours.items()},
        "hours, the driver alone": f"{planning_h:.2f}",
        "hours of sound": f"{job.recordings * job.sound_s / HOUR_S:,.0f}",
        "core-hours of computing": f"{core_hours:,.0f}",
        "price of the machines": f"{paid_h * job.core_hour_price:,.0f}",
        "read, TB": f"{job.recordings * job.input_bytes / 1e12:,.1f}",
        "read, GB a second": f"{job.recordings * job.input_bytes / GB / (longest_h * HOUR_S):,.2f}",
        "requests, millions": f"{(gets + puts) / 1e6:,.2f}",
        "price of the requests": f"{gets * job.get_price + puts * job.put_price:,.2f}",
        "written, GB": f"{job.recordings * job.cycles_each * job.row_bytes / GB:,.1f}",
        "shards": f"{puts / 3:,.0f}",
        "memory of the driver, GB": f"{job.recordings * job.driver_bytes / GB:,.1f}",
        "lost with a worker, minutes": f"{job.shard * job.core_s / 60:.1f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Job):
        if field.name not in ("machines", "cycles"):
            name = f"--{field.name.replace('_', '-')}"
            parser.add_argument(name, type=type(field.default), default=field.default, help=f"{field.default}")
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--cycles", nargs="+", choices=("segment", "auto"), default=["segment", "auto"])
    asked = vars(parser.parse_args())
    machines, sources = asked.pop("machines"), asked.pop("cycles")
    jobs = [replace(Job(**asked), machines=count, cycles=source) for source in sources for count in machines]
    columns = [describe(job) for job in jobs]
    print("| | " + " | ".join(f"{job.machines} × {job.cores} cores, {job.cycles}" for job in jobs) + " |")
    print("|---|" + "---|" * len(jobs))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main()

"""What the bench inside a cluster makes of what it saw."""

import pathlib

import pytest
from bench import usage
from bench.cluster import Round, rows
from bench.world import Delivery


def delivery(seconds: float, cpu: float = 1.0) -> Delivery:
    return Delivery(seconds=seconds, meeting=0.1, opening=0.2, cpu={"store": cpu, "relays": 3 * cpu, "agent": 2 * cpu})


def test_ratios_are_made_within_a_round_so_that_a_slow_machine_does_not_pass_for_a_slow_network() -> None:
    rounds = [
        Round(plain=plain, circuit=50.0, product=delivery(seconds), whole_core=delivery(1.0), others=0.5)
        for plain, seconds in ((1000.0, 10.0), (100.0, 100.0), (500.0, 20.0))  # the second round had a tenth of the machine
    ]
    found = {row.name: row for row in rows(rounds, size=100_000_000)}
    assert found["ratio"].value == 0.01
    assert found["store-to-agent-mb-s"].value == 5.0
    assert found["store-to-agent-mb-s"].unit == "MB/s, 1.0 to 10.0"
    assert found["cpu-s-per-gb"].value == 60.0
    assert found["relays-cpu-s-per-gb"].value == 30.0


@pytest.mark.parametrize("version", [1, 2])
def test_a_pods_processor_time_is_read_on_both_versions_of_cgroups(tmp_path: pathlib.Path, version: int) -> None:
    hierarchy = tmp_path / "cpuacct" if version == 1 else tmp_path
    pod = hierarchy / "veilpod" / "kubepods" / "burstable" / "pod1"
    pod.mkdir(parents=True)
    if version == 1:
        (pod / "cpuacct.usage").write_text("1500000000\n")
    else:
        (tmp_path / "cgroup.controllers").write_text("cpu\n")
        (pod / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1000000\n")
    assert usage.cpu_seconds(usage.cgroup("/veilpod", "pod1", root=tmp_path)) == 1.5
    with pytest.raises(FileNotFoundError):
        usage.cgroup("/veilpod", "pod2", root=tmp_path)


def test_the_machines_processor_time_leaves_out_what_nobody_used(tmp_path: pathlib.Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 200 300 9999 8888 10 20 70 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    assert usage.machine_seconds(stat) == 700 / usage._TICKS

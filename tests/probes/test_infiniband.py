"""RDMA ports, from a fake sysfs: no machine of the tests has one."""

from __future__ import annotations

from pathlib import Path

from distwatch.probes.infiniband import Ports
from distwatch.state.events import Port


def make_port(root: Path, device: str, state: str = "4: ACTIVE", **counters: int) -> Path:
    path = root / device / "ports" / "1"
    for folder in ("counters", "hw_counters"):
        (path / folder).mkdir(parents=True, exist_ok=True)
    (path / "state").write_text(f"{state}\n")
    (path / "phys_state").write_text("5: LinkUp\n" if "ACTIVE" in state else "2: Polling\n")
    for name, count in counters.items():
        folder = "counters" if name in ("link_downed", "symbol_error") else "hw_counters"
        (path / folder / name).write_text(f"{count}\n")
    return path


def test_counters_are_compared_with_the_first_look(tmp_path: Path) -> None:
    make_port(tmp_path, "mlx5_0", link_downed=3, local_ack_timeout_err=7)
    ports = Ports(str(tmp_path))
    (port,) = ports.sample("here").ports
    assert port == Port(name="mlx5_0:1", state="ACTIVE, LinkUp", was_up=True)
    make_port(tmp_path, "mlx5_0", link_downed=3, local_ack_timeout_err=12)
    (port,) = ports.sample("here").ports
    assert port.grown == {"local_ack_timeout_err": 5}


def test_a_port_that_goes_down_was_up(tmp_path: Path) -> None:
    make_port(tmp_path, "mlx5_0")
    make_port(tmp_path, "mlx5_1", "1: DOWN")
    ports = Ports(str(tmp_path))
    assert [port.was_up for port in ports.sample("here").ports] == [True, False]
    make_port(tmp_path, "mlx5_0", "1: DOWN")
    first, second = ports.sample("here").ports
    assert (first.was_up, first.state) == (True, "DOWN, Polling")
    assert (second.was_up, second.state) == (False, "DOWN, Polling")


def test_a_counter_that_comes_later_or_cannot_be_read_has_not_grown(tmp_path: Path) -> None:
    path = make_port(tmp_path, "mlx5_0")
    ports = Ports(str(tmp_path))
    ports.sample("here")
    make_port(tmp_path, "mlx5_0", symbol_error=9)
    (path / "hw_counters" / "packet_seq_err").write_text("N/A (no PMA)\n")
    assert ports.sample("here").ports[0].grown == {}


def test_a_host_without_such_devices_has_no_ports(tmp_path: Path) -> None:
    assert Ports(str(tmp_path / "absent")).sample("here").ports == ()

"""The embedded Triton server keeps its address: jobs that it serves are known by it."""

import socket
from pathlib import Path

from berth.embedded.triton import TritonServer


def test_the_ports_of_the_last_time_are_taken_again_unless_somebody_else_has_them(tmp_path: Path) -> None:
    first = TritonServer(tmp_path)._ports()
    assert TritonServer(tmp_path)._ports() == first
    with socket.socket() as other:
        other.bind(("127.0.0.1", first[0]))
        other.listen()
        second = TritonServer(tmp_path)._ports()
        assert first[0] not in second
    assert TritonServer(tmp_path)._ports() == second


def test_a_broken_file_of_ports_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "ports").write_text("70000 what")
    made = TritonServer(tmp_path)._ports()
    assert TritonServer(tmp_path)._ports() == made
    (tmp_path / "ports").write_text("99999 99998")
    assert all(port < 65536 for port in TritonServer(tmp_path)._ports())

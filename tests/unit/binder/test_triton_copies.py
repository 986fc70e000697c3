from dataclasses import replace

import pytest

from berth.backends.base import Placement, Refused
from berth.errors import InvalidInput
from binder.domain.work import Assignment, DeviceClaim, Member, Model, Work
from binder.executors.triton_copies import Servers, placement_of, read_servers, served_name
from tests.unit.binder.builders import make_attempt


def test_a_template_or_a_list() -> None:
    assert read_servers("http://{node}.gpu:8000/").address("n1") == "http://n1.gpu:8000"
    listed = read_servers(" n1=http://a:1 , n2=https://b ")
    assert [listed.address(node) for node in ("n1", "n2", "n3")] == ["http://a:1", "https://b", ""]
    assert read_servers("") == Servers()


@pytest.mark.parametrize(
    "text",
    ["http://a:8000", "n1=", "=http://a", "n1=ftp://a", "n1=a:8000", "n1=http://a,n1=http://b", "n1=http://a:x",
     "n1=http://a:99999", "{node}", "ftp://{node}", "http://{node}/v2?x=1", "n1=http://a/path"],
)  # fmt: skip
def test_wrong_servers_name_the_setting_and_the_remedy(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"BERTH_TRITON_SERVERS: .*(write http://\{node\}:8000|keep one)"):
        read_servers(text)


def assignment(job_id: str = "j", attempt: int = 1, **work: object) -> Assignment:
    made = Work((Member(0, "n1"),), model=Model("/m", "small", max_batch_size=4, parameters={"a": "b"}))
    return Assignment(make_attempt(job_id, attempt), replace(made, **work))  # type: ignore[arg-type]


def test_a_name_is_of_one_attempt_and_member() -> None:
    names = [
        served_name(each, Member(member, "n1"))
        for each in (assignment(), assignment(attempt=2), assignment("k"), assignment("j.1"))
        for member in (0, 1)
    ]
    assert len(set(names)) == 8
    assert names[0] == served_name(assignment(), Member(0, "elsewhere"))
    assert all(name.startswith("small-") for name in names)


def test_where_a_copy_goes() -> None:
    servers = Servers(template="http://{node}")
    assert placement_of(assignment(), Member(0, "n1"), servers) == Placement(
        "n1", "CPU", (), "http://n1",
        {"a": "b", "max_batch_size": "4", "instances": "1", "berth_owner": "j.1.0"},
    )  # fmt: skip
    claims = (DeviceClaim("d3", 3, 1000, "MI300X"), DeviceClaim("d1", 1, 1000, "MI300X"))
    placed = placement_of(assignment(), Member(0, "n1", claims), servers)
    assert (placed.accelerator, placed.indices) == ("MI300X", (1, 3))
    mixed = (*claims, DeviceClaim("d0", 0, 1000, "H100-SXM"))
    with pytest.raises(Refused, match="H100-SXM, MI300X: a copy is on devices of one model"):
        placement_of(assignment(), Member(0, "n1", mixed), servers)
    with pytest.raises(InvalidInput, match="the executor triton serves a model"):
        placement_of(assignment(model=None), Member(0, "n1"), servers)

"""What a waiting pod says, word for word."""

from hypothesis import given
from hypothesis import strategies as st

from berth.v1 import placement_pb2 as pb
from binder.pods.messages import EVENT_BYTES, of_explanation, same_but_for_numbers, shortened


def reason(code: str, message: str, nodes: int) -> pb.Reason:
    return pb.Reason(code=code, message=message, nodes=nodes)


def test_why_what_else_what_would_help_and_when() -> None:
    explanation = pb.Explanation(
        summary="waits: needs 4 free devices (3 of 5 nodes)", nodes_considered=5,
        reasons=[reason("DEVICES_BUSY", "needs 4 free devices", 3), reason("NODE_CORDONED", "2 cordoned", 2)],
        remedies=["a replica with 2 instead of 4 devices would fit now"],
        changes=[pb.Remedy(kind="after_job_ends", message="it would fit in 9 s")], expected_after=["train"],
    )  # fmt: skip
    explanation.expected_start.FromJsonString("2026-12-01T18:00:31Z")
    assert of_explanation(explanation, job="team/web", pods=4, notes=("volumes: pin them",)) == (
        "waits: needs 4 free devices (3 of 5 nodes). It starts together with its gang of 4 pods. Also: 2 cordoned (2 of 5 nodes). "
        "What would admit it: a replica with 2 instead of 4 devices would fit now. "
        "Expected to start: about 2026-12-01T18:00Z, after train. Not looked at: volumes: pin them. "
        "More: berth explain team/web"
    )


def test_where_the_engine_finds_no_change_each_reason_has_a_remedy() -> None:
    explanation = pb.Explanation(
        summary="waits: 2 cordoned (2 of 2 nodes)",
        nodes_considered=2,
        reasons=[reason("NODE_CORDONED", "2 cordoned", 2)],
    )
    assert of_explanation(explanation, job="a/b") == (
        "waits: 2 cordoned (2 of 2 nodes). What would admit it: nodes that take work again (kubectl uncordon). "
        "More: berth explain a/b"
    )
    assert of_explanation(pb.Explanation(), job="a/b") == "waits: not looked at yet. More: berth explain a/b"


def test_numbers_alone_are_no_news() -> None:
    assert same_but_for_numbers("3 of 5 nodes, 1.5 s", "12 of 50 nodes, 20 s")
    assert not same_but_for_numbers("3 of 5 nodes", "3 of 5 devices")


@given(st.text(max_size=2000))
def test_an_event_takes_what_is_left(text: str) -> None:
    short = shortened(text)
    assert len(short.encode()) <= EVENT_BYTES
    assert short == text or text.startswith(short.removesuffix(" ..."))

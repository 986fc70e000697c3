"""The columns keep what lies together by rows in step with what lies together by columns, and know what changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement_engine.domain import columns as col
from placement_engine.domain.columns import Columns

SLOTS = 3

writes = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 2 * SLOTS), st.just(0), st.just(0.0)),
        st.tuples(st.just("give back"), st.integers(0, 40), st.just(0), st.just(0.0)),
        st.tuples(st.just("device"), st.integers(0, 40), st.integers(0, SLOTS - 1), st.floats(-1e3, 1e3)),
        st.tuples(st.just("row"), st.integers(0, 40), st.integers(0, col.ROW_COLUMNS - 1), st.floats(-1e3, 1e3)),
        st.tuples(st.just("read"), st.integers(0, 1), st.just(0), st.just(0.0)),
    ),
    min_size=8,
    max_size=60,
)


@pytest.mark.parametrize("logged", [1, col.LOGGED])
@given(changes=writes)
@settings(max_examples=80, deadline=None)
def test_readers_find_what_changed_and_parts_have_the_values_of_the_whole(
    changes: list[tuple[str, int, int, float]], logged: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(col, "LOGGED", logged)
        columns = Columns()
        used = [columns.take(SLOTS) for _ in range(4)]
        readers = [(columns.changes(), columns.clock), (columns.changes(), columns.clock)]
        for what, number, place, value in (*changes, ("read", 0, 0, 0.0), ("read", 1, 0, 0.0)):
            if what == "take":
                used.append(columns.take(number))
            elif what == "read":
                mark, version = readers[number]
                expected = np.flatnonzero(columns.version[: columns.rows] > version).tolist()
                assert columns.changed_since(mark, version).tolist() == expected
                readers[number] = (columns.changes(), columns.clock)
            elif used and what == "give back":
                columns.give_back(used.pop(number % len(used)))
            elif used:
                row = used[number % len(used)]
                if what == "row":
                    columns.write_row(row, slice(place, place + 1), (value,))
                else:
                    columns.write_device(row, min(place, columns.device.shape[1] - 1), col.HEATS, (value, -value))
                columns.touch(row)
        picked = np.arange(columns.rows, dtype=np.intp)[::-2]
        part, whole = columns.view(picked), columns.view()
        assert np.array_equal(part.device, whole.device[:, :, picked])
        assert np.array_equal(part.row, whole.row[:, picked])
        for some in (part.only(np.arange(0, picked.shape[0], 2)), whole.only(picked[::2])):
            for column in range(col.ROW_COLUMNS):
                assert np.array_equal(some.rows(column), whole.rows(column)[picked[::2]])
            for column in range(col.DEVICE_COLUMNS):
                assert np.array_equal(some.devices(column), whole.devices(column)[:, picked[::2]])
            assert np.array_equal(some.node, whole.node[picked[::2]])

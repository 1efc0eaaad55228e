from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from limbeck.sse import Message, messages

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_the_examples_of_the_standard() -> None:
    # WHATWG HTML, section 9.2.6: the blocks and what they dispatch.
    stream = (
        b"data: YHOO\ndata: +2\ndata: 10\n\n"
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n"
        b"data\n\ndata\ndata\n\ndata:"
    )
    assert list(messages([stream])) == [
        Message("", "message", "YHOO\n+2\n10"),
        Message("1", "message", "first event"),
        Message("", "message", "second event"),
        Message("", "message", " third event"),
        Message("", "message", ""),
        Message("", "message", "\n"),
    ]


@given(
    values=st.lists(st.dictionaries(TEXT, TEXT), max_size=4),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 400)),
)
def test_any_json_in_any_pieces_comes_back(values: list[dict[str, str]], end: str, cuts: list[int]) -> None:
    blocks = [
        end.join(
            [": still here", "", f"id: {n}", "event: metric", f"data: {json.dumps(v, ensure_ascii=False)}", "", ""]
        )
        for n, v in enumerate(values)
    ]
    stream = "".join(blocks).encode()
    edges = sorted({0, len(stream), *(c for c in cuts if c < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    found = list(messages(pieces))
    assert [json.loads(m.data) for m in found] == values
    assert [m.id for m in found] == [str(n) for n in range(len(values))]


def test_what_the_stream_breaks_off_is_not_dispatched() -> None:
    assert list(messages([b"id: 1\ndata: whole\n\nid: 2\ndata: ha"])) == [Message("1", "message", "whole")]
    assert list(messages([b"id: 2\ndata: half\n"])) == []

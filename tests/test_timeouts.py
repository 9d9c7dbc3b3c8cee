"""A time-out lets what has arrived be read first. In virtual time, where standing still is a jump of the clock."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from hes.timeouts import AROUND_PASSES, fail_after
from tests.actors.parts import in_virtual_time
from tests.simulation.virtual_time import stand_still


@contextmanager
def a_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Ours, and the other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


async def read_in_pieces(ours: socket.socket) -> bytes:
    """As an answer is: its head, then its body."""
    loop = asyncio.get_running_loop()
    answer = b""
    while not answer.endswith(b"."):
        answer += await loop.sock_recv(ours, 4)
    return answer


@in_virtual_time
async def test_what_came_while_the_process_stood_still_is_read() -> None:
    def frozen() -> None:
        theirs.send(b"an answer in pieces.")
        stand_still(100)

    with a_pair() as (ours, theirs):
        asyncio.get_running_loop().call_later(1, frozen)
        with fail_after(3):
            assert await read_in_pieces(ours) == b"an answer in pieces."


@in_virtual_time
async def test_it_ends_in_time_when_nothing_comes() -> None:
    with a_pair() as (ours, _), pytest.raises(TimeoutError), fail_after(3):
        await read_in_pieces(ours)
    assert anyio.current_time() == 3


@in_virtual_time
async def test_half_an_answer_is_waited_for_no_longer() -> None:
    with a_pair() as (ours, theirs):
        theirs.send(b"half an")
        with pytest.raises(TimeoutError), fail_after(3):
            await read_in_pieces(ours)
    assert anyio.current_time() == 3


@in_virtual_time
async def test_when_both_are_late_the_inner_one_says_what_it_was() -> None:
    said = ""
    with a_pair() as (ours, _):
        asyncio.get_running_loop().call_later(1, stand_still, 100)
        with fail_after(4, passes=AROUND_PASSES):
            try:
                with fail_after(3):
                    await read_in_pieces(ours)
            except TimeoutError:
                said = "the inner one"
    assert said == "the inner one"


@in_virtual_time
async def test_what_is_cancelled_from_outside_does_not_time_out() -> None:
    with a_pair() as (ours, _), anyio.move_on_after(1) as outside, fail_after(3):
        await read_in_pieces(ours)
    assert outside.cancelled_caught


@in_virtual_time
async def test_what_ended_in_time_is_left_alone_afterwards() -> None:
    with fail_after(3):
        await anyio.sleep(1)
    await anyio.sleep(10)

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from anabranch.router.ports import Ports, check_port, hand_on
from anabranch.wire.listen import listen


def run(body: Callable[[Ports], Awaitable[None]]) -> None:
    async def limited() -> None:
        ports = Ports(asyncio.get_running_loop(), "127.0.0.1", 2)
        await ports.open(0)
        try:
            await asyncio.wait_for(body(ports), 30)
        finally:
            ports.close()

    asyncio.run(limited())


def connects(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def take(ports: Ports, place: int) -> list[socket.socket]:
    """What a new worker of a place does."""
    sockets = await ports.sockets(place)
    listen(sockets)
    hand_on(asyncio.get_running_loop(), ports.line(place), sockets)
    return sockets


def close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def test_a_free_port_is_shared_by_every_place() -> None:
    async def body(ports: Ports) -> None:
        both = [*await ports.sockets(0), *await ports.sockets(1)]
        assert {each.getsockname()[1] for each in both} == {ports.port}
        close(both)

    run(body)


def test_clients_are_turned_away_until_a_worker_listens() -> None:
    async def body(ports: Ports) -> None:
        sockets = await ports.sockets(1)
        assert not connects(ports.port)
        listen(sockets)
        assert connects(ports.port)
        close(sockets)

    run(body)


def test_what_waits_for_a_worker_is_there_for_the_one_that_replaces_it() -> None:
    async def body(ports: Ports) -> None:
        old = await take(ports, 0)
        with socket.socket() as client:
            client.connect(("127.0.0.1", ports.port))
            new = await take(ports, 0)
            close(old)
            found, _ = await asyncio.get_running_loop().sock_accept(new[0])
            with found:
                assert found.getpeername() == client.getsockname()
        close(new)

    run(body)


def test_nobody_keeps_the_sockets_of_a_worker_that_died() -> None:
    async def body(ports: Ports) -> None:
        sockets = await ports.sockets(0)
        line = ports.line(0)
        listen(sockets)
        assert connects(ports.port)
        close([*sockets, line])
        assert not connects(ports.port)
        again = await take(ports, 0)
        assert connects(ports.port)
        close(again)

    run(body)


def test_after_a_replacement_that_failed_its_predecessor_hands_on() -> None:
    async def body(ports: Ports) -> None:
        old = await take(ports, 0)
        failed = await ports.sockets(0)
        close([*failed, ports.line(0)])
        new = await ports.sockets(0)
        close(old)
        assert connects(ports.port)
        close(new)

    run(body)


def test_a_port_is_one_servers_from_the_moment_it_is_taken() -> None:
    async def body(ports: Ports) -> None:
        with pytest.raises(OSError, match="Address already in use"):
            check_port("127.0.0.1", ports.port)
        other = Ports(asyncio.get_running_loop(), "127.0.0.1", 1)
        with pytest.raises(OSError, match="Address already in use"):
            await other.open(ports.port)

    run(body)


def test_a_port_is_free_again_after_its_server() -> None:
    async def body(ports: Ports) -> None:
        ports.close()
        check_port("127.0.0.1", ports.port)

    run(body)

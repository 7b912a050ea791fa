import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from anabranch.router.ports import Ports, check_port
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


def test_a_free_port_is_shared_by_every_place() -> None:
    async def body(ports: Ports) -> None:
        taken = {each.getsockname()[1] for place in (0, 1) for each in ports.sockets(place)}
        assert taken == {ports.port}

    run(body)


def test_clients_are_turned_away_until_a_worker_listens() -> None:
    async def body(ports: Ports) -> None:
        assert not connects(ports.port)
        listen(ports.sockets(1))
        assert connects(ports.port)

    run(body)


def test_a_place_whose_worker_is_gone_takes_no_connections() -> None:
    async def body(ports: Ports) -> None:
        listen(ports.sockets(0))
        assert connects(ports.port)
        await ports.renew(0)
        assert not connects(ports.port)
        listen(ports.sockets(0))
        assert connects(ports.port)

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

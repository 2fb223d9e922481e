"""aiohttp's server, for strangers: what they can hold is bounded in connections, bytes and time.

One request per connection, so that nobody keeps a place by being busy. TLS towards clients elsewhere is for what stands in front.
"""

import asyncio
import logging

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from veilpod.core.guard import REQUEST_LIMIT

log = logging.getLogger(__name__)

_SECONDS = 15.0  # for the head, for the body, and for the answer
_LINGER_SECONDS = 2.0  # for who is told that his body is too long while he sends it
_STOP_SECONDS = 1.0
_CONNECTIONS = 256
_CONNECTIONS_OF_ONE = 64  # of one address, so that nobody can take all places: also what a proxy gets for all of its clients


class Server:
    """Serves `routes`. Port 0 takes any; `port` is the real one once `listening`."""

    def __init__(self, *routes: web.RouteDef) -> None:
        self._application = web.Application(client_max_size=REQUEST_LIMIT, middlewares=[_in_time])
        self._application.add_routes(routes)
        self._application.on_response_prepare.append(_once)
        self.listening = asyncio.Event()
        self.port = 0

    async def serve(self, host: str, port: int) -> None:
        """Serve until cancelled."""
        runner = web.AppRunner(
            self._application,
            access_log=None,
            logger=_server_log,
            keepalive_timeout=_SECONDS,  # aiohttp's bound for a head that does not come
            lingering_time=_LINGER_SECONDS,
            shutdown_timeout=_STOP_SECONDS,
            max_line_size=2048,
            max_field_size=4096,
            max_headers=32,
            read_bufsize=REQUEST_LIMIT,
            auto_decompress=False,
        )
        await runner.setup()
        server = runner.server
        assert server is not None
        # What TCPSite does, with a bound on connections, which it has not got.
        listener = await asyncio.get_running_loop().create_server(lambda: _Gate(server), host or None, port, backlog=_CONNECTIONS)
        try:
            self.port = listener.sockets[0].getsockname()[1]
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            listener.close()
            await runner.cleanup()


class _Gate(asyncio.Protocol):
    """Hands a connection to aiohttp while there is room for it and for its address, and hangs up otherwise."""

    def __init__(self, server: web.Server) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        held = [_address(connection.peername) for connection in self._server.connections]
        if len(held) >= _CONNECTIONS or held.count(_address(transport.get_extra_info("peername"))) >= _CONNECTIONS_OF_ONE:
            transport.abort()
            return
        protocol = self._server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


@web.middleware
async def _in_time(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        async with asyncio.timeout(_SECONDS):
            await request.read()  # kept for the handler; raises 413 beyond the limit
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (web.RequestPayloadError, OSError):
        raise web.HTTPBadRequest(text="the body did not arrive\n") from None
    try:
        async with asyncio.timeout(_SECONDS):
            return await handler(request)
    except TimeoutError:
        return web.Response(status=503, text="there is no answer in time\n")
    except web.HTTPException:
        raise
    except Exception as error:  # a defect of ours answers one request with an error and no detail
        log.error("http.defect", extra={"error": type(error).__name__}, exc_info=error)
        return web.Response(status=500, text="the request failed for a reason that is our defect\n")


async def _once(_: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers["Connection"] = "close"
    response.headers.popall("Server", None)  # which version runs here is nobody's business


def _address(peer: str | tuple[str, int] | tuple[str, int, int, int] | None) -> str:
    return peer[0] if isinstance(peer, tuple) else ""


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    # aiohttp logs a traceback for each malformed request: strangers would write our log.
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_server_log = logging.getLogger(f"{__name__}.server")
_server_log.addFilter(_is_worth_a_line)

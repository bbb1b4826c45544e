"""A server that speaks S3 (moto) on a port of this machine, whose next answers a test may spoil."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

Answer = Iterable[bytes]
Spoil = Callable[[Any], tuple[str, list[tuple[str, str]], bytes] | None]  # request -> status, headers, body; None: moto

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"


class Store:
    """WSGI: moto's S3, and what stands before it."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        self.moto = DomainDispatcherApplication(create_backend_app)
        self.spoil: Spoil = lambda request: None
        self.asked: list[str] = []  # "GET /bucket/key"
        self.url = ""

    def __call__(self, request: dict[str, Any], start: Callable[..., Any]) -> Answer:
        self.asked.append(f"{request['REQUEST_METHOD']} {request['PATH_INFO']}")
        if (answer := self.spoil(request)) is not None:
            status, headers, body = answer
            start(status, headers)
            return [] if request["REQUEST_METHOD"] == "HEAD" else [body]
        found: Answer = self.moto(request, start)
        return found


def refuse(status: str, code: str, message: str = "told by the test") -> tuple[str, list[tuple[str, str]], bytes]:
    """Status and S3's code -> the answer of a store that says no."""
    return status, [("Content-Type", "application/xml")], ERROR.format(code=code, message=message).encode()


@contextmanager
def serve_store() -> Iterator[Store]:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            pass

    store = Store()
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Quiet)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()

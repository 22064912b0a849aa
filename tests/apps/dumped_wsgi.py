"""A WSGI service with the agent, a gRPC stream that stays open, and a handler of SIGCHLD. Every request goes over the
stream; /heard tells what the handler has heard, /worker which process answers, and /end closes the stream."""

import json
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import glassbottom
import grpc

kept = [[str(number)] for number in range(300_000)]
heard: list[str] = []
signal.signal(signal.SIGCHLD, lambda *_: heard.append("SIGCHLD"))


def echo(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield request.upper()


chat = {"Chat": grpc.stream_stream_rpc_method_handler(echo)}
server = grpc.server(ThreadPoolExecutor(2), handlers=[grpc.method_handlers_generic_handler("t.Echo", chat)])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
answers = channel.stream_stream("/t.Echo/Chat")(iter(to_send.get, None))
one_at_a_time = threading.Lock()
glassbottom.init(service="dumped")


def app(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    path = str(environ["PATH_INFO"])
    with one_at_a_time:
        to_send.put(path.encode())
        answer = next(answers).decode()
        if path == "/end":
            to_send.put(None)
            assert list(answers) == []
            channel.close()
            server.stop(None).wait()
    told = {"/HEARD": json.dumps(heard), "/WORKER": str(os.getpid())}.get(answer, answer)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [told.encode()]

"""An OpenAI-compatible server whose model is a function of the conversation; for tests of programs that call one."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Conversation = list[dict[str, Any]]


@contextmanager
def scripted_openai(
    reply: Callable[[Conversation], str], finish_reason: str = "stop"
) -> Iterator[tuple[str, list[Conversation]]]:
    """Serve `reply(messages)` on a free port; yields the base URL and the conversations that were sent."""
    seen: list[Conversation] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(request["messages"])
            text = reply(request["messages"])
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            common = {"id": f"chatcmpl-{len(seen)}", "created": 0, "model": request["model"]}
            if request.get("stream"):
                whole = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
                end = {"index": 0, "delta": {}, "finish_reason": finish_reason}
                chunks: list[dict[str, Any]] = [{"choices": [whole]}, {"choices": [end]}]
                if (request.get("stream_options") or {}).get("include_usage"):
                    chunks.append({"choices": [], "usage": usage})
                events = [json.dumps({**common, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
                body = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
                self.answer("text/event-stream", body)
            else:
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": finish_reason}
                value = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
                self.answer("application/json", json.dumps(value))

        def answer(self, kind: str, body: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

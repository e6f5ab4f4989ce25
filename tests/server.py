"""A chat server on this machine that answers as told, and counts."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(content: str | None, finish: str | None = "stop", **message: Any) -> dict:
    """A reply as a server sends it."""
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish, "message": said}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


class Server:
    """Failures (status codes) come first, then the told replies, then the one for always, then a remark."""

    def __init__(self) -> None:
        self.asked: list[dict] = []
        self.failures: list[int] = []
        self.replies: list[dict] = []
        self.always: dict | None = None
        self.silent: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append({**body, "key": self.headers["Authorization"]})
                if outer.failures:
                    status = outer.failures.pop(0)
                    reply = {"error": {"message": f"no, {self.headers['Authorization']}"}}
                elif body["messages"][0]["content"] in outer.silent:
                    status, reply = 200, completion(None)
                elif outer.replies or outer.always is not None:
                    status, reply = 200, outer.replies.pop(0) if outer.replies else outer.always
                else:
                    status = 200
                    reply = completion(f"  remark {len(outer.asked)}\n")
                text = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Retry-After", "0.01")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

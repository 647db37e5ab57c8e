"""Downloads of the Hugging Face hub, from a server on this machine that answers as the hub does."""

import http.server
import subprocess
import sys
import threading

import pytest


class _Gated(http.server.BaseHTTPRequestHandler):
    """A hub whose model is given only to those who accepted its license."""

    def do_GET(self):
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("X-Error-Message", "Access to model meta/secret is restricted")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Gated) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_license_that_is_not_accepted_is_told(hub, tmp_path):
    code = (
        "from pathlib import Path; from expertchat.models.hub import fetch_model\n"
        "from expertchat.models.targets import TargetModules\n"
        "fetch_model('meta/secret', 'main', TargetModules(), Path('out'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "PATH": "/usr/bin", "NO_PROXY": "*"},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == (
        "expertchat.errors.UserError: meta/secret is given only to those who accept its license: do so "
        "on its page of the Hugging Face hub, and set HF_TOKEN to a token of that account"
    )

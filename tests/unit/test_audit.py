"""`make audit` tells "nothing is known" from "nobody could be asked", and fails where something is known."""

from __future__ import annotations

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit.py"
LOCK = "example-lib==1.0 \\\n    --hash=sha256:00\nother-lib==2.0 ; python_version < '4' \\\n    --hash=sha256:00\n"
FLAW = {
    "id": "GHSA-0000-0000-0000",
    "summary": "A flaw.",
    "modified": "2026-01-01T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "example-lib", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


def script():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules["audit"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("flaw", "code"), [(FLAW, 1), (None, 0)])
def test_what_an_advisory_service_knows(tmp_path: Path, capsys: pytest.CaptureFixture[str], flaw, code: int):
    """pip-audit itself asks a service: a flaw is listed with its remedy and fails, and none is said so."""

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            hit = flaw is not None and asked["package"]["name"] == "example-lib"
            body = json.dumps({"vulns": [flaw]} if hit else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK)
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1/query"
        assert script().main([lock], "--vulnerability-service", "osv", "--osv-url", url) == code
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    said = capsys.readouterr().out
    if flaw is None:
        assert said == "audit: nothing is known of 2 of 2 locked packages\n"
    else:
        assert "  example-lib 1.0: GHSA-0000-0000-0000, mended in 1.1\n" in said
        assert "audit: FAILED, 1 known in 2 of 2 locked packages" in said


@pytest.mark.parametrize(
    "report",
    ["", "Traceback …", '{"dependencies": [{"name": "example-lib", "skip_reason": "Dependency not found"}]}'],
)
def test_nobody_to_ask(report: str):
    """No report, or one that leaves all out, is no clean bill: it says that nothing was done."""
    verdict = script().judge(report, 2)
    assert (verdict.code, verdict.asked) == (0, 0)
    assert verdict.line() == "audit: NOT DONE, the advisories cannot be asked from here (2 locked packages)"

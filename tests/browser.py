"""A real browser over its debugging protocol, where one is installed; nothing but the standard library."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """Return a Chromium: that of the variable RESPRUNE_BROWSER, else one of the usual names."""
    given = os.environ.get("RESPRUNE_BROWSER")
    return given or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab; messages of the protocol go over a websocket."""

    def __init__(self, address: str) -> None:
        host, _, path = address.removeprefix("ws://").partition("/")
        name, port = host.split(":")
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._count = 0
        self._socket = socket.create_connection((name, int(port)), timeout=60)
        self._stream = self._socket.makefile("rb")
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        head = f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self._socket.sendall(f"{head}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        while self._stream.readline().strip():
            pass
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._socket.close()

    def open(self, file: Path, *, width: int, scheme: str) -> None:
        """Load a file and wait for it; errors and requests are those of this file from now on."""
        self.errors.clear()
        self.requests.clear()
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        self.ask("Page.navigate", url=file.absolute().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression gives, as JSON."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """Write the whole page as PNG."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(found["data"]))

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        self._send(json.dumps({"id": self._count, "method": method, "params": parameters}).encode())
        while True:
            message = self._receive()
            if message.get("id") == self._count:
                assert "error" not in message, message
                return message["result"]

    def _send(self, data: bytes) -> None:
        mask = secrets.token_bytes(4)
        size = len(data)
        head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0xFE]) + size.to_bytes(2, "big")
        self._socket.sendall(head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))

    def _receive(self) -> dict[str, Any]:
        data, final = b"", False
        while not final:
            first, size = self._stream.read(2)
            final = bool(first & 0x80)
            if size > 125:
                size = int.from_bytes(self._stream.read(2 if size == 126 else 8), "big")
            data += self._stream.read(size)
        message = json.loads(data)
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(given["exceptionDetails"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(str(given["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        return message


@contextmanager
def running(program: str, profile: Path) -> Iterator[Page]:
    """Start a browser without a window and yield a tab of it."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [program, *flags, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        port = ""
        for line in process.stderr:
            if "DevTools listening on" in line:
                port = line.split("/devtools")[0].rsplit(":", 1)[1]
                break
        assert port, "the browser did not start"
        with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            tabs = json.load(answer)
        page = Page(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
        yield page
        page.close()
    finally:
        process.terminate()
        process.communicate(timeout=60)

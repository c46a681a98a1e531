"""A headless Chromium driven through a pipe, with nothing but what it is told on that pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 120  # for one answer; a machine that is busy with other things is slow


class Browser:
    """One page at a time.

    Args:
        profile: A folder for what the browser writes.

    Attributes:
        requests: Addresses that the page asked for since it was opened, its own among them.
        messages: What went wrong in the page.
    """

    def __init__(self, profile: Path) -> None:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        if found is None:
            pytest.skip(f"none of {', '.join(NAMES)} is installed")
        (read, told), (self.answers, answer) = os.pipe(), os.pipe()
        # The browser reads from descriptor 3 and answers on 4. The page is ours: no sandbox, which containers lack.
        command = f'exec "$0" "$@" 3<&{read} 4>&{answer}'
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000", "--remote-debugging-pipe")
        self.process = subprocess.Popen(
            ["bash", "-c", command, found, *options, f"--user-data-dir={profile}"],
            pass_fds=(read, answer), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read), os.close(answer)
        self.told, self.number, self.session, self.kept = told, 0, None, b""
        self.requests: list[str] = []
        self.messages: list[str] = []
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; keeps what the page says meanwhile."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.told, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self.number:
            self._keep(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, path: Path) -> float:
        """Open a file, wait until its document has `data-ready`, and return the seconds from the start till then."""
        self.requests, self.messages = [], []
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            ready = self.run("document.documentElement?.dataset.ready")
            if ready:
                return float(ready) / 1000
            time.sleep(0.02)
        raise TimeoutError(f"{path} is not ready: {self.messages}")

    def run(self, code: str) -> Any:
        """The value of a piece of JavaScript; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{code}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self.session = None
        self.call("Browser.close")
        self.process.wait(SECONDS)
        os.close(self.told), os.close(self.answers)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.kept:
            if not select.select([self.answers], [], [], SECONDS)[0]:
                raise TimeoutError("the browser does not answer")
            if not (read := os.read(self.answers, 2**20)):
                raise RuntimeError("the browser has ended")
            self.kept += read
        message, self.kept = self.kept.split(b"\0", 1)
        return json.loads(message)

    def _keep(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(event["params"]))

"""Headless Chromium over the WebDriver protocol, which is JSON over HTTP: no package is needed."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


class Browser:
    """One headless window; `close` ends it and its driver."""

    def __init__(self, *arguments, size=(1280, 900)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._driver = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._url = f"http://127.0.0.1:{port}"
        options = {
            "binary": CHROMIUM,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--hide-scrollbars", f"--window-size={size[0]},{size[1]}", *arguments],
        }  # fmt: skip
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._wait_for_driver()
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self._end_driver()
            raise
        self._url += f"/session/{answer['sessionId']}"

    def _wait_for_driver(self):
        for _ in range(100):
            try:
                self._call("GET", "/status")
                return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("chromedriver does not answer")

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, path):
        self._call("POST", "/url", {"url": Path(path).resolve().as_uri()})

    def resize(self, width, height):
        """Lay the page out as for a window, or a telephone, of this size, px."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self._call("POST", "/goog/cdp/execute", command)

    def run(self, script, *arguments):
        """Value of a function body."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def pointer(self, x, y, click=False):
        steps = [{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}]
        if click:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "actions": steps}
        self._call("POST", "/actions", {"actions": [mouse]})

    def drag(self, *points):
        """Press at the first point, go through all, and let go."""
        moves = [{"type": "pointerMove", "duration": 20, "x": round(x), "y": round(y)}
                 for x, y in points]  # fmt: skip
        press = [{"type": "pointerDown", "button": 0}]
        steps = [moves[0], *press, *moves[1:], {"type": "pointerUp", "button": 0}]
        mouse = {"type": "pointer", "id": "mouse", "actions": steps}
        self._call("POST", "/actions", {"actions": [mouse]})

    def colours(self, scheme):
        """Lay the page out as for someone who likes "light" or "dark" pages."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self._call("POST", "/goog/cdp/execute", command)

    def key(self, *keys):
        steps = [{"type": t, "value": key} for key in keys for t in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": steps}]})

    def console(self):
        """Everything the page wrote to the console since the last call."""
        return self._call("POST", "/se/log", {"type": "browser"})

    def screenshot(self, path):
        Path(path).write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def pdf(self):
        return base64.b64decode(self._call("POST", "/print", {"background": False}))

    def close(self):
        try:
            self._call("DELETE", "")
        finally:
            self._end_driver()

    def _end_driver(self):
        self._driver.terminate()
        self._driver.wait(10)

"""The live page as plain requests, without a browser."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from support.folders import DATA


class Page:
    """A browser's requests to a server, as plain as they are on the wire."""

    def __init__(self, url: str) -> None:
        self.port = urlsplit(url).port
        self.token = urlsplit(url).query
        self.cookie = ""
        self.cookie = self.get(f"/?{self.token}").headers["set-cookie"].partition(";")[0]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"cookie": self.cookie, "host": f"127.0.0.1:{self.port}"}
        if body is not None:
            given["content-type"] = "application/json"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, content, {k: v for k, v in given.items() if v})
        answer: Any = connection.getresponse()
        answer.body = answer.read()
        connection.close()
        return answer

    def get(self, path: str, **headers: str) -> Any:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Any:
        return self.ask("POST", path, body, **headers)

    def told(self) -> dict[str, Any]:
        found = DATA.search(self.get("/").body.decode())
        assert found
        page: dict[str, Any] = json.loads(found[1])
        return page

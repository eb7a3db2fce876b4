"""A client of the page's service, as a program is."""

from typing import Any

import requests

STEPS = 2


class Client:
    """A session, opened or found again."""

    def __init__(self, url: str, session: str | None = None) -> None:
        self.url = url
        self.session = session or requests.post(f"{url}/v1/sessions").json()["session"]

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        return requests.request(method, f"{self.url}/v1/sessions/{self.session}{path}", **options)

    def phantom(self) -> "Client":
        assert self.send("POST", "/phantom", json={}).status_code == 200
        return self

    def upload(self, name: str, content: bytes) -> requests.Response:
        return self.send("PUT", "/scan", params={"name": name}, data=content)

    def site(self, **body: Any) -> list[float]:
        return self.send("POST", "/site", json={"diameter_mm": 12, **body}).json()["center"]

    def inpaint(self, *lesions: dict[str, Any], **settings: Any) -> requests.Response:
        body = {"session": self.session, "lesions": lesions, "settings": {"steps": STEPS, **settings}}
        return requests.post(f"{self.url}/v1/inpaint", json=body)

    def events(self, job: str) -> list[str]:
        lines = self.send("GET", f"/jobs/{job}/events", stream=True).iter_lines()
        return [line.decode() for line in lines if line.startswith(b"data: ")]

    def painted(self, *lesions: dict[str, Any], **settings: Any) -> dict[str, Any]:
        """A finished result."""
        job = self.inpaint(*lesions, **settings).json()["job"]
        states = self.events(job)
        assert '"state": "done"' in states[-1], states
        return self.send("GET", f"/results/{job}").json()

    def file(self, result: dict[str, Any], name: str) -> bytes:
        return self.send("GET", f"/results/{result['result']}/files/{name}").content

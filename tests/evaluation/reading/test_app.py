"""The server of a study: what a browser can learn, who may answer, and that no answer is lost or doubled."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from running_app import serving

from evaluation.reading.answers import AnswerFile, read_answers
from evaluation.reading.app import create_app
from evaluation.reading.study import KEY, load_study, open_key, reading_order

TOKENS = {"anna": "token-of-anna", "ben": "token-of-ben"}


class Client:
    """A reader's requests."""

    def __init__(self, url: str, reader: str) -> None:
        self.url, self.headers = url, {"Authorization": f"Bearer {TOKENS[reader]}"}

    def get(self, path: str) -> requests.Response:
        return requests.get(f"{self.url}/api/{path}", headers=self.headers)

    def answer(self, position: Any, verdict: Any = "real", confidence: Any = 3, seconds: Any = 1.5):
        body = {"position": position, "verdict": verdict, "confidence": confidence, "seconds": seconds}
        return requests.post(f"{self.url}/api/answer", data=json.dumps(body), headers=self.headers)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with serving(create_app(load_study(folder), TOKENS, AnswerFile(folder / "answers.csv"))) as url:
        yield url


def test_what_is_served_is_alike_for_both_classes_and_holds_nothing_of_the_key(study_folder):
    truth = {case.case: case.real for case in open_key(study_folder)}
    study = load_study(study_folder)
    (study_folder / KEY).unlink()  # the server does not need it
    seen: dict[bool, set[str]] = {True: set(), False: set()}
    with served(study_folder) as url:
        anna = Client(url, "anna")
        for position, showing in enumerate(reading_order(study, "anna"), 1):
            volume, state = anna.get(f"volume?position={position}"), anna.get("state")
            assert np.array_equal(np.frombuffer(volume.content, "<i2"), study.volumes[showing.case - 1].ravel())
            answered = anna.answer(position)
            assert answered.json().pop("truth", None) == (
                None if showing.kind != "training" else "real" if truth[showing.case] else "synthetic"
            )
            if showing.kind == "training":
                continue
            for response in (volume, state, answered):
                header = {name: value for name, value in response.headers.items() if name != "date"}
                content = {} if response is volume else response.json()
                about = {name: value for name, value in content.items() if name not in ("position", "done")}
                header.pop("content-length") if response is not volume else None  # digits of the position
                seen[truth[showing.case]].add(f"{response.status_code} {sorted(header.items())} {about}")
        assert seen[True] == seen[False] and len(seen[True]) == 2  # the volumes' headers, and the state
        assert anna.get("state").json()["done"]
        for path in ("/key.bin", "/../key.bin", "/volumes.npy", "/answers.csv", "/readers.json", "/api/key"):
            assert requests.get(url + path, headers=anna.headers).status_code == 404


def test_every_reply_forbids_other_hosts_and_inline_scripts(study_folder):
    with served(study_folder) as url:
        for path in ("/", "/study.js", "/viewer.js", "/viewer.css", "/api/state", "/nothing"):
            headers = requests.get(url + path).headers
            assert "default-src 'none'; script-src 'self';" in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
            assert "etag" not in headers and "last-modified" not in headers
        page = requests.get(url + "/").text
    assert "<style" not in page and "style=" not in page and "http" not in page and "onclick" not in page


def test_without_a_readers_token_nothing_of_the_study_is_served(study_folder):
    with served(study_folder) as url:
        for path in ("state", "volume?position=1"):
            for headers in ({}, {"Authorization": "Bearer token-of-anne"}):
                response = requests.get(f"{url}/api/{path}", headers=headers)
                assert response.status_code == 401 and "token is missing or wrong" in response.json()["detail"]
        assert requests.post(f"{url}/api/answer", json={}).status_code == 401
    assert read_answers(study_folder / "answers.csv") == []


def test_readers_go_on_by_themselves_and_after_a_restart_where_they_were(study_folder):
    with served(study_folder) as url:
        Client(url, "anna").answer(1)
        Client(url, "anna").answer(2, "synthetic", 5, 2)
        assert Client(url, "ben").get("state").json()["position"] == 1
    with served(study_folder) as url:
        assert Client(url, "anna").get("state").json()["position"] == 3
        Client(url, "anna").answer(3)
        assert Client(url, "ben").answer(1).json()["position"] == 2
    rows = [(row.reader, row.position, row.verdict) for row in read_answers(study_folder / "answers.csv")]
    assert rows == [("anna", 1, "real"), ("anna", 2, "synthetic"), ("anna", 3, "real"), ("ben", 1, "real")]


def test_an_answer_sent_twice_is_stored_once_and_another_one_is_refused(study_folder):
    with served(study_folder) as url:
        anna = Client(url, "anna")
        first, again, other = anna.answer(1), anna.answer(1), anna.answer(1, "synthetic")
        assert (first.status_code, again.status_code, other.status_code) == (200, 200, 409)
        assert first.json() == again.json() and other.json()["position"] == 2
        with ThreadPoolExecutor(8) as pool:
            verdicts = [("real", "synthetic")[n % 2] for n in range(16)]
            codes = list(pool.map(lambda verdict: anna.answer(2, verdict).status_code, verdicts))
    rows = read_answers(study_folder / "answers.csv")
    assert [row.position for row in rows] == [1, 2] and codes.count(200) == codes.count(409) == 8


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"position": 2}, "position 2, expected 1"),
        ({"position": 0}, "position 0, expected 1"),
        ({"position": "1"}, "expected position and confidence"),
        ({"position": True}, "expected position and confidence"),
        ({"confidence": 6}, "expected position and confidence"),
        ({"verdict": "made"}, "expected verdict"),
        ({"verdict": ["real"]}, "expected verdict"),
        ({"seconds": "1"}, "seconds: expected a number"),
        ({"seconds": float("nan")}, "seconds: expected a number"),
    ],
)
def test_a_malformed_answer_is_refused_and_not_stored(study_folder, given, sentence):
    with served(study_folder) as url:
        response = Client(url, "anna").answer(**{"position": 1} | given)
        assert response.status_code == 400 and sentence in response.json()["detail"]
    assert read_answers(study_folder / "answers.csv") == []


def test_bodies_that_are_no_answer_and_volumes_of_other_positions_are_refused(study_folder):
    with served(study_folder) as url:
        anna = Client(url, "anna")
        for body, status in ((b"{", 400), (b"[]", 400), (b"[" * 3000, 400), (b" " * 5000, 413)):
            assert requests.post(f"{url}/api/answer", data=body, headers=anna.headers).status_code == status
        for position in ("2", "0", "x", ""):
            assert anna.get(f"volume?position={position}").status_code == 409
        assert anna.answer(1, seconds=1e300).status_code == anna.answer(2, seconds=-5).status_code == 200
    assert [row.seconds for row in read_answers(study_folder / "answers.csv")] == [86400, 0]


def test_answers_of_another_study_are_refused(study_folder):
    with served(study_folder) as url:
        Client(url, "anna").answer(1)
    file = study_folder / "answers.csv"
    file.write_text(file.read_text().replace("anna,1,", "anna,2,"))
    with pytest.raises(ValueError, match="the answers of anna do not follow the order of this study"):
        create_app(load_study(study_folder), TOKENS, AnswerFile(file))

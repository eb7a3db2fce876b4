"""Uploads folders to the Hugging Face Hub: checks access before long work, and tries again after broken connections.

`huggingface_hub` itself tries the transfer of a large file six times within half a minute. This module also repeats
what it sends only once (creating the repository, the commit), and waits longer for a broken connection. Files that have
arrived are not sent twice. The access token comes from the environment (`HF_TOKEN`) or the stored login, never from an
option.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of huggingface_hub's HTTP client, whichever that is
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

Kind = Literal["model", "dataset"]
Result = TypeVar("Result")
PATTERNS = ["*.json", "*.safetensors", "*.arrow", "*.csv", "*.md"]  # what a folder of this project is made of
NOT_SENT = ["*cache-*.arrow"]  # what Datasets computes beside its files
WAITS_S = (2.0, 10.0)  # before the second and the third try
TRY_AGAIN = (408, 429)  # and what is 500 or above: the Hub's own trouble


def prepare_repository(repo: str, kind: Kind = "model", private: bool = True) -> None:
    """Make sure that a push can be made, and create the repository if it is not there. Call it before long work.

    Args:
        repo: "OWNER/NAME".
        kind: Of the repository.
        private: Whether one that is created is private, and one that exists has to be.
    Raises:
        ValueError: If the name is malformed, there is no access token, the Hub does not take it or does not let it
            write there, or the repository is public and should be private.
        OSError: If the Hub cannot be reached or has trouble, after several tries.
    """
    check_target(repo)
    api = HfApi()

    def ready() -> bool | None:
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        return api.repo_info(repo, repo_type=kind).private

    if _tried(ready, repo) is False and private:
        raise ValueError(f"{repo}: is public already; choose another repository, or say that it may be: private false")


def check_target(repo: str) -> None:
    """Raise ValueError unless it is OWNER/NAME, as the Hub takes it, and there is an access token; asks nobody."""
    try:
        validate_repo_id(repo)
    except HFValidationError:
        well_formed = False
    else:
        well_formed = repo.count("/") == 1
    if not well_formed:
        raise ValueError(f"repository {repo!r}: expected OWNER/NAME, of letters, digits, '-', '_' and '.'")
    if get_token() is None:
        raise ValueError(f"{repo}: no access token; set HF_TOKEN, or log in with `hf auth login`")


def push_folder(
    folder: Path,
    repo: str,
    kind: Kind = "model",
    private: bool = True,
    revision: str | None = None,
    message: str = "Upload",
) -> str:
    """Send the JSON, safetensors, Arrow, CSV and Markdown files of a folder to a repository, as one commit.

    Args:
        folder: Its files keep their paths below it.
        repo, kind, private: As in :func:`prepare_repository`.
        revision: An existing branch; None for the default one.
        message: Of the commit.
    Returns: The commit's address.
    Raises: ValueError, OSError: As :func:`prepare_repository`; ValueError also where there is no such branch or the
        Hub refuses a file.
    """
    prepare_repository(repo, kind, private)

    def send() -> str:
        pushed = HfApi().upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            allow_patterns=PATTERNS,
            ignore_patterns=list(NOT_SENT),  # the client adds its own to the list
        )
        return str(pushed.commit_url)

    return _tried(send, repo, revision)


def _tried(ask: Callable[[], Result], repo: str, revision: str | None = None) -> Result:
    """The answer of the Hub, asked again where the line or the Hub fails; what it refuses is told in one sentence."""
    for wait_s in (*WAITS_S, None):
        try:
            return ask()
        except OfflineModeIsEnabled as error:
            raise ValueError(f"{repo}: HF_HUB_OFFLINE is set; unset it to push") from error
        except RevisionNotFoundError as error:
            raise ValueError(
                f"{repo}: no branch {revision!r}; expected one that exists, or none for the default branch"
            ) from error
        except RepositoryNotFoundError as error:
            raise ValueError(
                f"{repo}: no such repository for this access token; check the spelling, and the token's permissions"
            ) from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status == 401:
                raise ValueError(
                    f"{repo}: the Hub does not accept the access token; renew HF_TOKEN, or log in with `hf auth login`"
                ) from error
            if status == 403:
                raise ValueError(
                    f"{repo}: the access token may not write there; use one with write permission, or another owner"
                ) from error
            if status < 500 and status not in TRY_AGAIN:
                raise ValueError(f"{repo}: the Hub refuses it ({_said(error)})") from error
            cause: Exception = error
        except (HTTPError, ConnectionError, TimeoutError, RuntimeError) as error:  # RuntimeError: hf_xet's
            cause = error
        if wait_s is not None:
            time.sleep(wait_s)
    raise OSError(
        f"{repo}: the connection to the Hub failed {len(WAITS_S) + 1} times; check the network and try again, what has "
        f"arrived is not sent twice ({_said(cause)})"
    ) from cause


def _said(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(str(getattr(error, "server_message", None) or error).split())

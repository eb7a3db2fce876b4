"""What a request to the service asks for, and who may ask; every refusal is one sentence."""

import base64
import binascii
import hmac
import math
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import QueryParams

from autoencoder.service.served_model import Task
from autoencoder.service.wire import parse_dtype, parse_shape

SCALING = {"scaling_factor", "shift_factor"}
PARAMETERS = {
    "encode": {"shape", "dtype", "posterior", *SCALING},
    "decode": {
        "shape",
        "dtype",
        "do_scaling",
        "output_type",
        "image_format",
        "partial_postprocess",
        "height",
        "width",
        *SCALING,
    },
}


def parse_task(kind: str, query: QueryParams, config: Mapping[str, Any]) -> Task:
    """The task that the query parameters describe, without its body.

    Args:
        kind: "encode" or "decode".
        query: As `diffusers.utils.remote_utils` sends it; `posterior` of encode is an addition of this service.
        config: The autoencoder's; its scaling_factor and shift_factor, if it has them, stand in for those that a
            request with do_scaling leaves out.
    Raises: ValueError: If a parameter is unknown, missing, given twice or out of its range, or asks for a picture.
    """
    unknown = sorted(set(query) - PARAMETERS[kind])
    if unknown:
        raise ValueError(f"{kind}: unknown parameter {unknown[0][:40]!r}; known: {', '.join(sorted(PARAMETERS[kind]))}")
    for name in set(query) - {"shape"}:
        if len(query.getlist(name)) > 1:
            raise ValueError(f"{name} is given more than once")
    for name in ("shape", "dtype"):
        if name not in query:
            raise ValueError(f"{name} is missing; send a tensor (B, C, D, H, W), pictures are not taken")
    if query.get("output_type", "pt") != "pt":
        raise ValueError(
            f'output_type {query["output_type"][:40]!r}: a CT is not a picture; pass output_type="pt", '
            'return_type="pt" to remote_decode'
        )
    if _flag(query, "partial_postprocess"):
        raise ValueError("partial_postprocess makes uint8 pictures; leave it out, a CT is answered as it is decoded")
    if "height" in query or "width" in query:
        raise ValueError("height and width belong to packed latents; send the latent as (B, C, d, h, w)")
    defaults = config if _flag(query, "do_scaling") else {}
    scaling = _number(query, "scaling_factor", defaults.get("scaling_factor") or 1.0)
    if scaling == 0:
        raise ValueError("scaling_factor 0, expected any other number")
    return Task(
        kind=kind,
        shape=parse_shape(query.getlist("shape")),
        dtype=parse_dtype(query["dtype"]),
        scaling_factor=scaling,
        shift_factor=_number(query, "shift_factor", defaults.get("shift_factor") or 0.0),
        posterior=_flag(query, "posterior"),
    )


def check_authorization(header: str | None, token: str | None) -> None:
    """Compare, in constant time, the token of `Bearer TOKEN`, or the password of HTTP Basic, with the service's.

    Basic is there for clients that can only be given a URL: http://any:TOKEN@host:port/decode.

    Raises: HTTPException: 401, if the service has a token and the header has not.
    """
    if token is None:
        return
    scheme, _, credentials = (header or "").partition(" ")
    given = credentials.strip().encode("latin-1", "replace")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).partition(b":")[2]
        except binascii.Error:
            given = b""
    elif scheme.lower() != "bearer":
        given = b""
    if not hmac.compare_digest(given, token.encode()):
        detail = "the token is missing or wrong; send Authorization: Bearer TOKEN, or TOKEN as the password of Basic"
        raise HTTPException(401, detail, {"WWW-Authenticate": 'Bearer, Basic realm="autoencoder"'})


def _flag(query: QueryParams, name: str) -> bool:
    text = query.get(name, "false")
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{name} {text[:40]!r}, expected true or false")
    return text.lower() in ("true", "1")


def _number(query: QueryParams, name: str, default: float) -> float:
    text = query.get(name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} {str(text)[:40]!r}, expected a finite number")
    return number

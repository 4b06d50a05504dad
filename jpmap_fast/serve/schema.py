"""What the service takes and answers, as OpenAPI says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jpmap_fast._versions import versions
from jpmap_fast.algorithms import ALGORITHMS
from jpmap_fast.jobs._fields import VERSION
from jpmap_fast.operators.registry import (
    NamedOperator,
    Option,
    all_options,
    named_operator,
    operator_names,
    owners,
)

# Where work is asked for, and the header that tells how it went.
WORK, REPORT = "/restore", "restoration-report"
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_NUMBERS = {int: "integer", float: "number", str: "string"}
REFUSALS = {
    400: "No form that can be read.",
    408: "The request came too slowly.",
    411: "The request does not say how long it is.",
    413: "The request is too long.",
    415: "The request is no multipart form.",
    422: "The request cannot be run; the error says what to mend.",
    500: "The service could not restore it.",
    503: "The service is full; ask again after the seconds that Retry-After says.",
    504: "The restoration takes longer than the service waits.",
}


def document(priors: Sequence[str]) -> dict[str, Any]:
    """The whole of it.

    Args:
        priors: names that may be asked for.
    """
    text = {"text/plain": {"schema": {"type": "string"}}}
    ready = {"type": "object", "required": ["ready"], "properties": {"ready": {"type": "boolean"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "jpmap_fast", "version": versions()["jpmap_fast"]},
        "paths": {
            WORK: {"post": {"summary": "Restore a picture.", **operation(priors)}},
            "/health": {"get": _asking("Whether the service answers.", {"type": "object"})},
            "/ready": {
                "get": _asking("Whether there are replicas to restore.", ready, "There are none.")
            },
            "/metrics": {
                "get": {
                    "summary": "What was counted, for Prometheus.",
                    "responses": {"200": {"description": "Counts.", "content": text}},
                }
            },
            "/openapi.json": {"get": _asking("This.", {"type": "object"})},
        },
    }


def _asking(summary: str, schema: dict[str, Any], otherwise: str = "") -> dict[str, Any]:
    """An operation that answers JSON, with 503 for what is ``otherwise``."""
    content = {"application/json": {"schema": schema}}
    answers = {"200": {"description": summary, "content": content}}
    if otherwise:
        answers["503"] = {"description": otherwise, "content": content}
    return {"summary": summary, "responses": answers}


def operation(priors: Sequence[str]) -> dict[str, Any]:
    """That of ``POST /restore``.

    Args:
        priors: names that may be asked for.
    """
    binary = {"type": "string", "format": "binary"}
    files = {o.name: {**binary, "description": _described(o)} for o in all_options() if o.read}
    form = {
        "type": "object",
        "required": ["request", "picture"],
        "additionalProperties": False,
        "properties": {
            "request": request_schema(priors),
            "picture": {
                **binary,
                "description": "A picture file, or measurements of one picture in an .npy file.",
            },
            **files,
        },
    }
    encoding = {"request": {"contentType": "application/json"}}
    pictures = {"image/png": {"schema": binary}, "image/tiff": {"schema": binary}}
    pictures["application/octet-stream"] = {"schema": binary}
    answers: dict[str, Any] = {
        "200": {
            "description": "The restored picture, in the type of the one that came.",
            "headers": {
                REPORT: {
                    "description": "How it went: the fields of a PictureReport, as JSON.",
                    "schema": {"type": "string", "contentMediaType": "application/json"},
                }
            },
            "content": pictures,
        }
    }
    for status, description in REFUSALS.items():
        answers[str(status)] = {
            "description": description,
            "content": {"application/json": {"schema": ERROR}},
        }
    content = {"multipart/form-data": {"schema": form, "encoding": encoding}}
    return {"requestBody": {"required": True, "content": content}, "responses": answers}


def request_schema(priors: Sequence[str]) -> dict[str, Any]:
    """That of the fields of a ``RestoreRequest`` that may be given, for each operator its own."""
    return {"oneOf": [_request_of(named_operator(name), priors) for name in operator_names()]}


def _request_of(operator: NamedOperator, priors: Sequence[str]) -> dict[str, Any]:
    own = {o.name: o for o in operator.options if not o.draws and (o.formula or not o.takes_file)}
    options = {
        "type": "object",
        "properties": {name: _option(option) for name, option in own.items()},
        # Others that are required may come as files.
        "required": [name for name in operator.required if name in own and not own[name].formula],
        "additionalProperties": False,
    }
    properties = {
        "version": {"type": "integer", "enum": [VERSION]},
        "operator": {"type": "string", "enum": [operator.name], "description": operator.formula},
        "sigma": {
            "description": "Of the noise, for pixel values in [0, 1].",
            "oneOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "enum": ["auto"]},
            ],
        },
        "prior": {"type": "string", "enum": list(priors)},
        "method": {"type": "string", "enum": list(ALGORITHMS)},
        "residual": {"type": "string", "description": "white, or one that the prior carries."},
        "options": options,
        "settings": {
            "description": "Of the method, by name.",
            "type": "object",
            "additionalProperties": {"type": ["number", "string", "boolean"]},
        },
        "seed": {"type": "integer"},
        "background": {"type": "number", "minimum": 0, "maximum": 1},
    }
    required = ["operator", "sigma", "prior", *(["options"] if options["required"] else [])]
    return {
        "type": "object",
        "required": required,
        "additionalProperties": False,
        "properties": properties,
    }


def _option(option: Option) -> dict[str, Any]:
    found: dict[str, Any] = {"type": _NUMBERS[option.kind], "description": option.help}
    if option.choices:
        found["enum"] = list(option.choices)
    return found


def _described(option: Option) -> str:
    return f"For {' and '.join(owners(option.name))}: {option.help}"

"""Hooks of schemathesis for ``service_fuzz.py``: pictures that can be read, and a list of answers.

Of random bytes none is a picture. Where it is asked for most forms get a real one, so that what is
behind the reader is reached as well; sizes are those of the priors, and others.
"""

from __future__ import annotations

import json
import os
import random
from io import BytesIO
from typing import Any

import schemathesis
from PIL import Image
from schemathesis.transport.serialization import Binary

ANSWERS = os.environ["JPMAP_FUZZ_ANSWERS"]
SIZES = ((28, 28), (28, 28), (28, 28), (14, 14), (64, 64), (1, 1), (9, 17))
MODES = ("L", "RGB", "1", "RGBA", "I;16", "F")
_choose = random.Random(0)


def _picture(size: tuple[int, int]) -> bytes:
    mode, content = _choose.choice(MODES), BytesIO()
    shades = Image.effect_noise(size, 60)
    kind = "tiff" if mode in ("F", "I;16") else "png"
    if mode == "I;16":
        shades = shades.convert("I").point(lambda value: 257 * value)
    shades.convert(mode).save(content, kind)
    return content.getvalue()


def map_body(context: Any, body: Any) -> Any:
    """Most forms with real pictures, and most of these with fields that go together."""
    if not isinstance(body, dict) or _choose.random() < 0.1:
        return body
    size = _choose.choice(SIZES)  # of all pictures of a form, as a mask must have
    body = {name: v if name == "request" else Binary(_picture(size)) for name, v in body.items()}
    if _choose.random() < 0.8:
        body["request"] = _fitting(body["request"])
        files = {"inpainting": "mask", "compressed-sensing": "matrix"}
        needed = ("request", "picture", files.get(body["request"]["operator"]))
        body = {name: value for name, value in body.items() if name in needed}
    return body


if os.environ.get("JPMAP_FUZZ_PICTURES"):
    schemathesis.hook(map_body)


def _fitting(request: dict[str, Any]) -> dict[str, Any]:
    """A request with most of its fields, and values that go with each other."""
    request = {**request, "sigma": _choose.choice((0.1, "auto"))}
    request["prior"] = _choose.choice(("mnist", "fashion", "photos-grey"))
    for name in ("residual", "settings", "method", "version", "background"):
        if _choose.random() < 0.8:
            request.pop(name, None)
    options = request.get("options")
    if isinstance(options, dict):
        if "factor" in options:
            options["factor"] = _choose.choice((1, 2, 3))
        if "kernel" in options or request["operator"] == "blur":
            options["kernel"] = _choose.choice(("gaussian:1", "box:3", "motion:3:20", "bicubic"))
    elif request["operator"] == "blur":
        request["options"] = {"kernel": "gaussian:1"}
    return request


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """One line for each answer."""
    line = {"method": case.method, "path": case.path, "status": response.status_code}
    with open(ANSWERS, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")

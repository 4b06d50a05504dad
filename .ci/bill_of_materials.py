"""The bill of materials of a wheel: python .ci/bill_of_materials.py ENVIRONMENT WHEEL.

ENVIRONMENT is what ``cyclonedx-py environment`` says of one that holds the wheel and what it needs,
nothing else. The weights and data within the wheel are added with their hashes and licences. The
bill is written beside the wheel, CycloneDX in a file that ends in .cdx.json.
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from terms import DATA, metadata_of, terms


def bundled(wheel: Path) -> list[dict[str, Any]]:
    """The weights and data in a wheel as components."""
    stated = terms()
    parts = []
    with ZipFile(wheel) as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(DATA)):
            model = name.endswith(".safetensors")
            part = {
                "type": "machine-learning-model" if model else "data",
                "bom-ref": f"file:{name}",
                "name": name,
                "description": f"told in {Path(name).with_suffix('.md').as_posix()}",
                "hashes": [{"alg": "SHA-256", "content": sha256(archive.read(name)).hexdigest()}],
                "licenses": [{"expression": stated[name].licence}],
                "copyright": stated[name].copyright,
            }
            parts.append(part)
    return parts


def main() -> None:
    """Write the bill, or say what is wrong with it."""
    environment, wheel = map(Path, sys.argv[1:])
    bill = json.loads(environment.read_text(encoding="utf-8"))
    about = bill["metadata"]["component"]
    # The tool takes an expression with terms that SPDX does not list for a name.
    about["licenses"] = [{"expression": metadata_of(wheel)["License-Expression"]}]
    about["hashes"] = [{"alg": "SHA-256", "content": sha256(wheel.read_bytes()).hexdigest()}]
    about["components"] = bundled(wheel)
    names = {part["name"] for part in bill["components"]}
    assert {"torch", "numpy"} <= names, f"expected what the wheel needs, got {sorted(names)}"
    assert "pip" not in names, "expected an environment without pip, which no wheel needs"
    assert about["components"], "no weights in the wheel"
    text = json.dumps(bill, indent=2) + "\n"
    version = SchemaVersion.from_version(bill["specVersion"])
    problem = JsonStrictValidator(version).validate_str(text)
    assert problem is None, problem
    wheel.with_suffix(".cdx.json").write_text(text, encoding="utf-8")
    print(
        f"bill of materials: {len(names)} packages, {len(about['components'])} bundled files,"
        f" CycloneDX {bill['specVersion']}"
    )


if __name__ == "__main__":
    main()

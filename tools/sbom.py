"""Lists what HES runs with: name, version, licence and who needs whom, from the lock and what is installed by it.

A CycloneDX 1.6 document (cyclonedx.org/docs/1.6/json), the same for the same lock. Hashes stay in the lock: it has one
for each file of a package, where the format means one for a package.
"""

import re
from importlib import metadata
from typing import Any
from urllib.parse import quote

import msgspec

from hes import __version__
from tools.locked import pins

Json = dict[str, Any]
HES = f"pkg:pypi/hes@{__version__}"


def sbom() -> Json:
    """Raises PackageNotFoundError where the environment is not the lock's."""
    pinned = pins()
    there = {name: _installed(name) for name in pinned}
    refs = {name: f"pkg:pypi/{name}@{version}" for name, version in pinned.items()}
    dependencies = {refs[name]: _needs(found, refs) for name, found in there.items() if found}
    dependencies[HES] = _needs(metadata.distribution("hes"), refs)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": HES, "name": "hes", "version": __version__}},
        "components": [
            {"type": "library", "bom-ref": refs[name], "name": name, "version": version, "purl": refs[name]}
            | _licences(there[name])
            for name, version in sorted(pinned.items())
        ],
        "dependencies": [{"ref": ref, "dependsOn": needed} for ref, needed in sorted(dependencies.items())],
    }


def _installed(name: str) -> metadata.Distribution | None:
    """None: locked for another platform only."""
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def _needs(found: metadata.Distribution, refs: dict[str, str]) -> list[str]:
    """Which of the locked ones it names; some of them only for an extra or another platform."""
    names = [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in found.requires or []]
    normal = {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    return sorted(refs[name] for name in normal if name in refs)


def _licences(found: metadata.Distribution | None) -> Json:
    """An SPDX expression where the package has one; else what it calls itself."""
    if found is None:
        return {}
    said: Any = found.metadata  # an email's headers, typed as less than that
    if expression := said.get("License-Expression"):
        return {"licenses": [{"expression": expression}]}
    classifiers = said.get_all("Classifier") or []
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License :: ")]
    return {"licenses": [{"license": {"name": name}} for name in named]} if named else {}


def as_json() -> bytes:
    return _formatted(sbom())


def image_as_json(packages: dict[str, list[tuple[str, str]]]) -> bytes:
    """What an image holds. `packages`: names and versions by where they come from, `pypi` or `deb`."""
    components = [
        {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref}
        for kind, listed in packages.items()
        for name, version in listed
        for ref in [f"pkg:{_KINDS[kind]}/{name}@{quote(version, safe='')}"]
        if ref != HES
    ]
    component = {"type": "container", "bom-ref": HES, "name": "hes", "version": __version__}
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "metadata": {"component": component}}
    return _formatted(head | {"components": components})


_KINDS = {"pypi": "pypi", "deb": "deb/debian"}
"""As package URLs have them (ECMA-427)."""


def _formatted(document: Json) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"

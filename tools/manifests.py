"""Renders each overlay of kustomize/ into dist/manifests/, and holds it against Kubernetes' own schemas.

Needs `kubectl` or `kustomize`; no cluster is asked. tests/ship/test_manifests.py looks at the rendered text.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[1]
OVERLAYS = sorted(path.name for path in (ROOT / "kustomize/overlays").iterdir())
EXAMPLES = sorted((ROOT / "kustomize/examples").glob("*.yaml"))
HOW_TO_GET_ONE = "there is neither kubectl nor kustomize here. Debian, Ubuntu: apt-get install kubernetes-client"


def renderer() -> list[str] | None:
    """The command that renders a folder; None if there is none here."""
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    return None


def render(folder: Path) -> str:
    """As `kubectl apply -k` would send it. Raises SystemExit with what the renderer said."""
    command = renderer()
    if command is None:
        sys.exit(f"manifests: {HOW_TO_GET_ONE}")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"manifests: {folder.name}: {done.stderr}")
    return done.stdout


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def faults(text: str) -> Iterator[str]:
    """What Kubernetes would refuse, the first of each document. Fields that it does not know count too."""
    for document in documents(text):
        try:
            kubernetes_validate.validate(document, "1.37", strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            yield f"{document['kind']} {document['metadata']['name']}: {where}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{document['kind']} {document['metadata']['name']}: Kubernetes itself has no such kind"


def main() -> None:
    """Exits with 1 and what is wrong."""
    out = ROOT / "dist/manifests"
    out.mkdir(parents=True, exist_ok=True)
    wrong = [f"{path.name}: {fault}" for path in EXAMPLES for fault in faults(path.read_text())]
    for name in OVERLAYS:
        text = render(ROOT / "kustomize/overlays" / name)
        (out / f"{name}.yaml").write_text(text)
        print(f"dist/manifests/{name}.yaml: {len(documents(text))} objects")
        wrong += [f"{name}: {fault}" for fault in faults(text)]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()

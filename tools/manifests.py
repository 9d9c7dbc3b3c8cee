"""Renders each overlay of kustomize/ into dist/manifests/, and holds it against Kubernetes' own schemas.

Each component is rendered as well, on top of overlays/cluster. The rule of components/prometheus is written anew from
docs/observability/alerts.yaml.

Needs `kubectl` or `kustomize`; no cluster is asked. tests/ship/test_manifests.py looks at the rendered text.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[1]
OVERLAYS = sorted(path.name for path in (ROOT / "kustomize/overlays").iterdir())
COMPONENTS = sorted(path.name for path in (ROOT / "kustomize/components").iterdir())
EXAMPLES = sorted(
    set((ROOT / "kustomize/examples").glob("*.yaml")) - {ROOT / "kustomize/examples/prometheus-adapter.yaml"}
)
"""The other one is no manifest, but values of a Helm chart."""
ALERTS = ROOT / "docs/observability/alerts.yaml"
RULES = ROOT / "kustomize/components/prometheus/rules.yaml"
OF_OTHERS = frozenset(
    {
        "external-secrets.io/v1",
        "gateway.networking.k8s.io/v1",
        "keda.sh/v1alpha1",
        "monitoring.coreos.com/v1",
        "postgresql.cnpg.io/v1",
    }
)
"""Kinds that operators bring, whose schemas Kubernetes does not have: of these nothing is checked."""
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


def render_component(name: str) -> str:
    """As an overlay of one's own would have it that adds the component to overlays/cluster."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()

        def to(place: str) -> str:
            return os.path.relpath(ROOT / "kustomize" / place, here)

        (here / "kustomization.yaml").write_text(
            f"resources: [{to('overlays/cluster')}]\ncomponents: [{to(f'components/{name}')}]\n"
        )
        return render(here)


def rules() -> str:
    """The alert rules as the Prometheus operator takes them."""
    head = (
        "# Made by `make manifests` from docs/observability/alerts.yaml.\n"
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\n"
        "metadata:\n  name: hes\n  namespace: hes\nspec:\n"
    )
    lines = [line for line in ALERTS.read_text().splitlines() if not line.startswith("#")]
    return head + "".join(f"  {line}".rstrip() + "\n" for line in lines)


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def faults(text: str) -> Iterator[str]:
    """What Kubernetes would refuse, the first of each document. Fields that it does not know count too."""
    for document in documents(text):
        if document["apiVersion"] in OF_OTHERS:
            continue
        try:
            kubernetes_validate.validate(document, "1.37", strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            yield f"{document['kind']} {_name(document)}: {where}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{document['kind']} {_name(document)}: Kubernetes itself has no such kind"


def _name(document: dict[str, Any]) -> str:
    found: str = document["metadata"].get("name") or document["metadata"]["generateName"]
    return found


def main() -> None:
    """Exits with 1 and what is wrong."""
    out = ROOT / "dist/manifests"
    out.mkdir(parents=True, exist_ok=True)
    RULES.write_text(rules())
    wrong = [f"{path.name}: {fault}" for path in EXAMPLES for fault in faults(path.read_text())]
    for name in OVERLAYS:
        text = render(ROOT / "kustomize/overlays" / name)
        (out / f"{name}.yaml").write_text(text)
        print(f"dist/manifests/{name}.yaml: {len(documents(text))} objects")
        wrong += [f"{name}: {fault}" for fault in faults(text)]
    for name in COMPONENTS:
        wrong += [f"components/{name}: {fault}" for fault in faults(render_component(name))]
    print(f"components: {', '.join(COMPONENTS)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()

"""What `kubectl apply -k` would send to a cluster: rendered for real, then looked at. No cluster is asked."""

import base64
import functools
import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hes import __version__
from hes.cli import cli
from hes.settings import load
from hes.telemetry.names import OLDEST_DUE
from hes.web.health import is_alive, is_ready
from tests.test_readme import blocks
from tools.manifests import (
    COMPONENTS,
    EXAMPLES,
    HOW_TO_GET_ONE,
    OVERLAYS,
    ROOT,
    RULES,
    documents,
    faults,
    render,
    render_component,
    renderer,
    rules,
)

Object = dict[str, Any]

JOB = f"hes-db-upgrade-{__version__.replace('.', '-')}"

pytestmark = pytest.mark.skipif(renderer() is None, reason=HOW_TO_GET_ONE)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_component = pytest.mark.parametrize("component", COMPONENTS)


@functools.cache
def rendered(overlay: str) -> str:
    return render(ROOT / "kustomize/overlays" / overlay)


@functools.cache
def with_component(component: str) -> list[Object]:
    """On top of overlays/cluster."""
    return documents(render_component(component))


@functools.cache
def parsed(overlay: str) -> list[Object]:
    return documents(rendered(overlay))


def objects(overlay: str, *kinds: str) -> list[Object]:
    found = parsed(overlay)
    return [one for one in found if one["kind"] in kinds] if kinds else found


def named(overlay: str, kind: str, name: str) -> Object:
    return next(one for one in objects(overlay, kind) if one["metadata"]["name"] == name)


def workloads(overlay: str) -> list[Object]:
    """Whatever makes pods; another kind than these must be added here."""
    found = [one for one in objects(overlay) if "template" in one.get("spec", {})]
    assert {one["kind"] for one in found} <= {"Deployment", "Job"}
    return found


def pods(overlay: str) -> Iterator[Object]:
    """Specs of all pods."""
    yield from (one["spec"]["template"]["spec"] for one in workloads(overlay))


def containers(overlay: str) -> Iterator[Object]:
    for pod in pods(overlay):
        assert "initContainers" not in pod
        yield from pod["containers"]


def of_hes(overlay: str) -> list[Object]:
    return [one for one in workloads(overlay) if one["spec"]["template"]["spec"]["containers"][0]["name"] == "hes"]


def labels(workload: Object) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def selects(selector: Object, workload: Object) -> bool:
    wanted = selector.get("matchLabels", selector) if selector else {}
    return wanted.items() <= labels(workload).items()


# --- what Kubernetes itself would say --------------------------------------------------------------------------------


@each_overlay
def test_it_is_what_kubernetes_takes(overlay: str) -> None:
    assert list(faults(rendered(overlay))) == []


def test_a_fault_is_found() -> None:
    wrong = rendered("cluster").replace("containerPort: 8025", "containerPort: eight").replace("maxSkew:", "skew:")
    told = list(faults(wrong))
    assert len(told) == 2  # one for each Deployment
    assert "hes-api: spec.template.spec" in told[0]


@each_component
def test_a_component_adds_what_kubernetes_takes_and_closes_what_it_opens(component: str) -> None:
    assert list(faults(render_component(component))) == []
    found = with_component(component)
    added = [one for one in found if one not in parsed("cluster")]
    assert added
    assert {one["metadata"].get("namespace", "hes") for one in found} == {"hes"}
    for policy in (one["spec"] for one in added if one["kind"] == "NetworkPolicy"):
        assert policy["podSelector"]
        for way in ("ingress", "egress"):
            for opened in policy.get(way, []):
                assert opened["from" if way == "ingress" else "to"], "to anybody"
                assert opened["ports"], "by any port"
    for pod in (one["spec"]["template"]["spec"] for one in added if "template" in one.get("spec", {})):
        check_pod(pod)


def test_the_rule_of_the_operator_holds_the_alerts_of_the_docs() -> None:
    """`make manifests` writes it anew."""
    assert RULES.read_text() == rules()
    (rule,) = documents(RULES.read_text())
    (alerts,) = documents((ROOT / "docs/observability/alerts.yaml").read_text())
    assert rule["spec"] == alerts


def test_keda_and_the_autoscaler_are_not_both_there() -> None:
    found = with_component("keda")
    assert [one["metadata"]["name"] for one in found if one["kind"] == "HorizontalPodAutoscaler"] == ["hes-api"]
    (scaled,) = [one["spec"] for one in found if one["kind"] == "ScaledObject"]
    assert scaled["triggers"][0]["metadata"]["query"] == f"max({OLDEST})"


def test_the_collector_s_address_is_where_the_policy_leads() -> None:
    found = with_component("otlp")
    (settings,) = [one["data"] for one in found if one["kind"] == "ConfigMap"]
    assert settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector.monitoring:4318"
    (policy,) = [one["spec"] for one in found if one["metadata"]["name"] == "hes-otlp"]
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": 4318}]


def test_each_secret_that_a_pod_refers_to_has_an_example_and_comes_out_of_a_vault() -> None:
    examples = [one for path in EXAMPLES for one in documents(path.read_text())]
    secrets = {one["metadata"]["name"] for one in examples if one["kind"] == "Secret"}
    from_vault = {
        one["metadata"]["name"] for one in with_component("external-secrets") if one["kind"] == "ExternalSecret"
    }
    wanted = {"hes-database", "hes-database-owner", "hes-admin", "hes-providers"}
    assert wanted <= secrets
    assert from_vault == wanted


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_what_kubernetes_takes(example: Path) -> None:
    assert list(faults(example.read_text())) == []


# --- security --------------------------------------------------------------------------------------------------------


@each_overlay
def test_no_pod_can_do_more_than_it_needs(overlay: str) -> None:
    """Kubernetes' own profile `restricted`, and what it leaves open."""
    for pod in pods(overlay):
        check_pod(pod)


def check_pod(pod: Object) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    secured = pod["securityContext"]
    assert secured["runAsNonRoot"] is True
    assert secured["runAsUser"] > 0
    assert secured["seccompProfile"] == {"type": "RuntimeDefault"}
    kinds = {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]}
    assert kinds <= {"emptyDir", "persistentVolumeClaim", "configMap", "secret"}
    assert all(volume["emptyDir"].get("sizeLimit") for volume in pod["volumes"] if "emptyDir" in volume)
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))
        assert {"cpu", "memory", "ephemeral-storage"} <= container["resources"]["requests"].keys()
        # No limit on CPU: it would slow down what could use an idle core.
        assert container["resources"]["limits"].keys() == {"memory", "ephemeral-storage"}


@pytest.mark.parametrize(
    "example", [path for path in EXAMPLES if path.name == "db-job.yaml"], ids=lambda path: path.name
)
def test_a_job_of_one_s_own_can_do_no_more(example: Path) -> None:
    (job,) = documents(example.read_text())
    pod = job["spec"]["template"]["spec"]
    check_pod(pod)
    (container,) = pod["containers"]
    assert container["image"] == f"hes:{__version__}"
    assert CliRunner().invoke(cli, [*container["args"], "--help"]).exit_code == 0
    closed = named("cluster", "NetworkPolicy", "hes-database")["spec"]
    assert selects(closed["podSelector"], job), "it would not reach the database"


@each_overlay
def test_a_namespace_refuses_whatever_could_do_more(overlay: str) -> None:
    (namespace,) = objects(overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {one["metadata"].get("namespace", "hes") for one in objects(overlay)} == {"hes"}


@each_overlay
def test_the_service_account_is_nobody(overlay: str) -> None:
    assert [one["automountServiceAccountToken"] for one in objects(overlay, "ServiceAccount")] == [False]
    assert objects(overlay, "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding") == []


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "demo"])
def test_no_secret_is_in_what_is_committed(overlay: str) -> None:
    assert objects(overlay, "Secret") == []


def test_the_demo_s_secrets_say_that_they_are_none() -> None:
    values = [value for secret in objects("demo", "Secret") for value in secret["data"].values()]
    assert values
    assert all(b"demo" in base64.b64decode(value) for value in values)


def test_only_mailers_have_the_providers_keys() -> None:
    def secrets(workload: Object) -> set[str]:
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        all_of = {one["secretRef"]["name"] for one in container.get("envFrom", []) if "secretRef" in one}
        refs = [one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"] if "valueFrom" in one]
        return all_of | set(refs)

    assert {one["metadata"]["name"]: secrets(one) for one in of_hes("cluster")} == {
        "hes-api": {"hes-database", "hes-admin"},
        "hes-mailer": {"hes-database", "hes-providers"},
        JOB: {"hes-database-owner"},
    }


@each_overlay
def test_each_pod_is_closed_in_both_directions_but_for_what_is_named(overlay: str) -> None:
    policies = objects(overlay, "NetworkPolicy")
    closed = next(one["spec"] for one in policies if one["metadata"]["name"] == "hes-nothing-else")
    assert closed["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & closed.keys()
    assert all(selects(closed["podSelector"], one) for one in of_hes(overlay))
    for policy in policies:
        assert policy["spec"]["podSelector"] != {}, "it would close pods of others too"
        assert any(selects(policy["spec"]["podSelector"], one) for one in workloads(overlay)), policy["metadata"]


INSIDE = (
    "169.254.169.254", "fd00:ec2::254", "fe80::1", "10.1.2.3", "172.31.0.1", "192.168.7.7", "100.64.0.1", "127.0.0.1",
    "::1", "fd12::1",
)  # fmt: skip


def is_in(address: str, block: Object) -> bool:
    one = ip_address(address)
    return one in ip_network(block["cidr"]) and not any(one in ip_network(not_in) for not_in in block.get("except", []))


@each_overlay
def test_the_database_is_somewhere(overlay: str) -> None:
    (egress,) = named(overlay, "NetworkPolicy", "hes-database")["spec"]["egress"]
    assert egress["ports"] == [{"protocol": "TCP", "port": 5432}]
    assert egress["to"]
    blocks = [one["ipBlock"] for one in egress["to"] if "ipBlock" in one]
    assert not any(is_in(address, block) for block in blocks for address in ("203.0.113.7", "fd00:ec2::254"))


@each_overlay
def test_the_api_is_reached_from_labelled_namespaces_only(overlay: str) -> None:
    (ingress,) = named(overlay, "NetworkPolicy", "hes-api")["spec"]["ingress"]
    assert ingress["from"] == [{"namespaceSelector": {"matchLabels": {"hes-client": "true"}}}]
    assert "hes-client=true" in (ROOT / "docs/kubernetes.md").read_text()


@each_overlay
def test_https_is_open_for_those_who_send_and_never_to_where_clouds_keep_credentials(overlay: str) -> None:
    policy = named(overlay, "NetworkPolicy", "hes-mailer")["spec"]
    (egress,) = policy["egress"]
    assert egress["ports"] == [{"protocol": "TCP", "port": 443}]
    open_to = [block["ipBlock"] for block in egress["to"]]
    for address in INSIDE:
        assert not any(is_in(address, block) for block in open_to), address
    for address in ("203.0.113.7", "2001:db8::7"):
        assert any(is_in(address, block) for block in open_to), address
    open_for = {role_of(overlay, one) for one in of_hes(overlay) if selects(policy["podSelector"], one)}
    assert open_for == {"all" if overlay == "local" else "mailer"}


# --- what HES says to its settings -----------------------------------------------------------------------------------


def environment_of(overlay: str, workload: Object) -> dict[str, str]:
    """The variables that the container gets, with the examples' Secrets where the overlay brings none."""
    examples = [one for path in EXAMPLES for one in documents(path.read_text())]
    secrets = {one["metadata"]["name"]: one["stringData"] for one in examples if one["kind"] == "Secret"}
    for one in objects(overlay, "Secret"):
        decoded = {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
        secrets[one["metadata"]["name"]] = decoded
    maps = {one["metadata"]["name"]: one["data"] for one in objects(overlay, "ConfigMap")}
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    environ: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environ |= (
            maps[source["configMapRef"]["name"]] if "configMapRef" in source else secrets[source["secretRef"]["name"]]
        )
    for variable in container.get("env", []):
        ref = variable.get("valueFrom", {}).get("secretKeyRef")
        environ[variable["name"]] = secrets[ref["name"]][ref["key"]] if ref else variable["value"]
    return environ


def role_of(overlay: str, workload: Object) -> str:
    return environment_of(overlay, workload).get("HES_ROLE", "none")


@each_overlay
def test_hes_accepts_the_settings(overlay: str, tmp_path: Path) -> None:
    roles = set()
    for workload in of_hes(overlay):
        serves = workload["kind"] == "Deployment"
        settings = load({}, environment_of(overlay, workload), tmp_path, with_providers=serves)
        assert settings.without_effect() == []
        if serves:
            roles.add(settings.role)
            assert (settings.bootstrap_key is None) == (settings.role == "mailer")
        assert settings.is_sqlite == (overlay == "local")
    assert roles == ({"all"} if overlay == "local" else {"api", "mailer"})


@each_overlay
def test_the_commands_are_hes_s(overlay: str) -> None:
    for workload in of_hes(overlay):
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert "command" not in container  # the image's own is `hes`
        assert CliRunner().invoke(cli, [*container["args"], "--help"]).exit_code == 0


# --- life and death --------------------------------------------------------------------------------------------------


@each_overlay
def test_pods_have_the_time_that_hes_takes_to_stop(overlay: str, tmp_path: Path) -> None:
    for workload in of_hes(overlay):
        if workload["kind"] == "Job":
            continue
        pod = workload["spec"]["template"]["spec"]
        settings = load({}, environment_of(overlay, workload), tmp_path)
        pre_stop = (
            pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])
        )
        assert pod["terminationGracePeriodSeconds"] >= float(pre_stop[1]) + settings.grace_seconds + 5


@each_overlay
def test_probes_ask_what_hes_answers(overlay: str) -> None:
    (alive,), (ready,) = is_alive.paths, is_ready.paths
    for workload in of_hes(overlay):
        if workload["kind"] == "Job":
            continue
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert container["ports"] == [{"name": "http", "containerPort": 8025}]
        probes = ("startupProbe", "livenessProbe", "readinessProbe")
        assert all(container[probe].get("timeoutSeconds", 1) >= 2 for probe in probes), "slow is not dead"
        asked = {probe: container[probe]["httpGet"] for probe in probes}
        assert asked == {
            "startupProbe": {"path": alive, "port": "http"},
            "livenessProbe": {"path": alive, "port": "http"},
            "readinessProbe": {"path": ready, "port": "http"},
        }


@each_overlay
def test_where_hes_writes_a_volume_is_mounted(overlay: str) -> None:
    for pod in pods(overlay):
        there = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert all(mount.get("readOnly") for mount in container["volumeMounts"] if "-ca" in mount["name"])
            assert set(mounted.values()) == there
            assert "/tmp" in mounted
            assert container["name"] != "hes" or container["args"] != ["serve"] or "/data" in mounted


@each_overlay
def test_one_pod_owns_a_sqlite_file(overlay: str) -> None:
    for one in objects(overlay, "Deployment"):
        if role_of(overlay, one) == "all":
            assert one["spec"]["replicas"] == 1
            assert one["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("overlay", ["cluster", "demo"])
def test_pods_of_one_kind_stand_apart_and_go_one_by_one(overlay: str) -> None:
    for one in of_hes(overlay):
        if one["kind"] == "Job":
            continue
        constraints = one["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert {constraint["topologyKey"] for constraint in constraints} == {
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
        }
        assert all(selects(constraint["labelSelector"], one) for constraint in constraints)
        (budget,) = [b["spec"] for b in objects(overlay, "PodDisruptionBudget") if selects(b["spec"]["selector"], one)]
        assert budget["maxUnavailable"] == 1
        assert one["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


@each_overlay
def test_the_service_is_those_who_accept(overlay: str) -> None:
    service = named(overlay, "Service", "hes")["spec"]
    reached = [one for one in workloads(overlay) if selects(service["selector"], one)]
    assert [role_of(overlay, one) for one in reached] == ["all" if overlay == "local" else "api"]
    assert service["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]


OLDEST = f"{OLDEST_DUE.name.replace('.', '_')}_seconds"


def test_a_new_version_is_a_new_job() -> None:
    """A Job can't be changed: one of the same name and another version would stop the roll-out."""
    (job,) = objects("cluster", "Job")
    assert job["metadata"]["name"] == JOB
    assert job["metadata"]["annotations"] == {
        "argocd.argoproj.io/hook": "Sync",
        "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
        "kustomize.toolkit.fluxcd.io/force": "enabled",
    }


def test_the_autoscalers_alone_say_how_many_there_are() -> None:
    scaled = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"] for one in objects("cluster", "HorizontalPodAutoscaler")
    }
    deployments = {one["metadata"]["name"]: one["spec"] for one in objects("cluster", "Deployment")}
    assert scaled.keys() == deployments.keys()
    assert not any("replicas" in spec for spec in deployments.values())
    assert scaled["hes-api"]["metrics"][0]["resource"]["name"] == "cpu"
    assert scaled["hes-mailer"]["metrics"][0]["external"]["metric"] == {"name": OLDEST}
    adapter = yaml.safe_load((ROOT / "kustomize/examples/prometheus-adapter.yaml").read_text())
    assert [rule["name"]["as"] for rule in adapter["rules"]["external"]] == [OLDEST]
    # 11 connections each (docs/cluster.md), one more of each while rolling out, of 100 that a default Postgres has.
    assert sum((spec["maxReplicas"] + 1) * 11 for spec in scaled.values()) <= 97
    assert all(spec["minReplicas"] >= 2 for spec in scaled.values())


# --- versions, and the way in ----------------------------------------------------------------------------------------


@each_overlay
def test_the_image_is_this_version_and_never_whatever_is_newest(overlay: str) -> None:
    images = {container["name"]: container["image"] for container in containers(overlay)}
    assert images["hes"] == f"hes:{__version__}"
    assert all(":" in image and not image.endswith(":latest") for image in images.values())


def test_an_overlay_of_one_s_own_as_the_guide_has_it(tmp_path: Path) -> None:
    """The one in docs/kubernetes.md: with another image, other providers, and a way in."""
    (block,) = [b for b in blocks((ROOT / "docs/kubernetes.md").read_text()) if b.startswith("# kustomization.yaml")]
    text = block.replace("../hes/kustomize", os.path.relpath(ROOT / "kustomize", tmp_path.resolve()))
    (tmp_path / "kustomization.yaml").write_text(text)
    text = render(tmp_path)
    assert list(faults(text)) == []
    found = documents(text)
    images = {
        c["image"]
        for one in found
        if one["kind"] == "Deployment"
        for c in one["spec"]["template"]["spec"]["containers"]
    }
    assert images == {f"registry.example.com/hes:{__version__}"}
    (settings,) = [one["data"] for one in found if one["kind"] == "ConfigMap"]
    assert "MAILGUN_KEY" in settings["HES_PROVIDERS"]
    assert settings["HES_LOG_FORMAT"] == "json"
    (ingress,) = [one for one in found if one["kind"] == "Ingress"]
    paths = ingress["spec"]["rules"][0]["http"]["paths"]
    assert [path["path"] for path in paths] == ["/v1", "/hooks"]
    assert {path["backend"]["service"]["name"] for path in paths} == {"hes"}

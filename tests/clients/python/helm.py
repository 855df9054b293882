"""A release of a chart through Helm's own library, which is client-go: made,
waited for, changed, rolled back, tested for and removed."""

import os
import pathlib
import tempfile

import helm_python as helm

CHART = """\
apiVersion: v2
name: shop
version: 0.1.0
description: What a namespace may hold without a node.
"""

VALUES = """\
greeting: hello
port: 80
"""

CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-words
  labels:
    app.kubernetes.io/managed-by: {{ .Release.Service }}
data:
  greeting: {{ .Values.greeting | quote }}
  on: {{ .Capabilities.KubeVersion.Version }}
{{- if .Values.more }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ .Release.Name }}-more
stringData:
  more: {{ .Values.more | quote }}
{{- end }}
"""

SERVICE = """\
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .Release.Name }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .Release.Name }}
spec:
  selector:
    app: {{ .Release.Name }}
  ports:
  - name: web
    port: {{ .Values.port }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .Release.Name }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      app: {{ .Release.Name }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .Release.Name }}
rules:
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get]
"""

# Looked up while it is rendered, and made before everything else.
HOOK = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-hook
  annotations:
    helm.sh/hook: pre-install,pre-upgrade
    helm.sh/hook-delete-policy: before-hook-creation
data:
  account: {{ (lookup "v1" "ServiceAccount" .Release.Namespace "default").metadata.name }}
"""

NOT_SERVED = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: d
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: c, image: i}]}
"""

REFUSED = """\
apiVersion: v1
kind: Service
metadata:
  name: refused
spec:
  ports:
  - port: 99999
"""


def written(directory, templates):
    """A chart of these templates."""
    chart = pathlib.Path(directory)
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text(CHART)
    (chart / "values.yaml").write_text(VALUES)
    for name, text in templates.items():
        (chart / "templates" / name).write_text(text)
    return str(chart)


def refused(what, expected):
    """Whether it fails with words of the server's."""
    try:
        what()
    except helm.HelmError as error:
        assert expected in str(error), f"{expected!r} is not in {error}"
    else:
        raise AssertionError(f"nothing was refused: {expected}")


def main():
    with tempfile.TemporaryDirectory() as scratch:
        chart = written(f"{scratch}/shop", {"words.yaml": CONFIG_MAP, "service.yaml": SERVICE, "hook.yaml": HOOK})
        with helm.Config(namespace="default", kubeconfig_path=os.environ["KUBECONFIG"]) as config:
            release = config.install(chart, "shop", {"more": "once"}, wait="watcher", timeout=60)
            assert (release["revision"], release["status"]) == (1, "deployed"), release

            release = config.upgrade(chart, "shop", {"greeting": "good day", "port": 8080}, wait="watcher", timeout=60)
            assert (release["revision"], release["status"]) == (2, "deployed"), release
            assert [item["name"] for item in config.list()] == ["shop"]
            assert config.get_values("shop")["port"] == 8080

            config.rollback("shop", version=1)
            assert [item["revision"] for item in config.history("shop")] == [1, 2, 3]

            other = written(f"{scratch}/other", {"d.yaml": NOT_SERVED})
            refused(lambda: config.install(other, "other"), "the server could not find the requested resource")
            wrong = written(f"{scratch}/wrong", {"s.yaml": REFUSED})
            refused(lambda: config.install(wrong, "wrong"), "spec.ports[0].port: Invalid value: 99999: must be between 1 and 65535, inclusive")
            refused(lambda: config.install(chart, "shop"), "in use")

            config.uninstall("shop")
            refused(lambda: config.get_values("shop"), "not found")
    print("done")


main()

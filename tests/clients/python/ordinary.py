"""The ordinary use of the official Python client: create, read, patch, apply,
watch, delete. Run with KUBECONFIG set; any failure is an exception."""

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient

config.load_kube_config()
core = client.CoreV1Api()

assert client.VersionApi().get_code().minor == "33"
assert "v1" in client.CoreApi().get_api_versions().versions

# Create and read, typed.
made = core.create_namespaced_config_map(
    "default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="m", labels={"app": "a"}), data={"k": "v"})
)
assert made.metadata.uid and made.metadata.managed_fields[0].operation == "Update"
assert core.read_namespaced_config_map("m", "default").data == {"k": "v"}
assert [m.metadata.name for m in core.list_namespaced_config_map("default", label_selector="app=a").items] == ["m"]

# Patches of three types.
assert core.patch_namespaced_config_map("m", "default", {"data": {"l": "v"}}).data == {"k": "v", "l": "v"}
operations = [{"op": "remove", "path": "/data/l"}]
assert core.patch_namespaced_config_map("m", "default", operations).data == {"k": "v"}

# Replaced with an old version: a conflict.
stale = core.read_namespaced_config_map("m", "default")
core.patch_namespaced_config_map("m", "default", {"data": {"k": "w"}})
try:
    core.replace_namespaced_config_map("m", "default", stale)
    raise AssertionError("a stale replace went through")
except ApiException as error:
    assert error.status == 409, error

# Server-side apply, through the dynamic client and its discovery.
maps = DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"n": "v"}}
applied = maps.server_side_apply(namespace="default", body=config_map, field_manager="python")
assert applied.data.to_dict() == {"k": "w", "n": "v"}
try:
    conflicting = dict(config_map, data={"k": "x"})
    maps.server_side_apply(namespace="default", body=conflicting, field_manager="python")
    raise AssertionError("a conflict went through")
except ApiException as error:
    assert error.status == 409 and "Apply failed with 1 conflict" in error.body.decode(), error

# A pod, its status and its deletion.
pod = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {"containers": [{"name": "c", "image": "busybox:1.30", "resources": {"limits": {"cpu": "100m"}}}]},
}
assert core.create_namespaced_pod("default", pod).status.phase == "Pending"
assert core.patch_namespaced_pod_status("p", "default", {"status": {"message": "hello"}}).status.message == "hello"

# A watch sees what happens, in order, from where a list ended.
start = core.list_namespaced_config_map("default").metadata.resource_version
core.create_namespaced_config_map("default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="w")))
core.patch_namespaced_config_map("w", "default", {"data": {"k": "v"}})
core.delete_namespaced_config_map("w", "default")
seen = []
watcher = watch.Watch()
for event in watcher.stream(core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=30):
    seen.append((event["type"], event["object"].metadata.name))
    if len(seen) == 3:
        watcher.stop()
assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], seen

core.delete_namespaced_pod("p", "default", grace_period_seconds=0)
core.delete_namespaced_config_map("m", "default")
try:
    core.read_namespaced_config_map("m", "default")
    raise AssertionError("a deleted map was read")
except ApiException as error:
    assert error.status == 404, error
print("done")

"""Commands in a running pod through the official Python client. Run with
KUBECONFIG set and a pod "box" that has a shell; any failure is an exception."""

from kubernetes import client, config
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

config.load_kube_config()
core = client.CoreV1Api()


def run(command, **options):
    options = {"stdout": True, "stderr": True, "stdin": False, "tty": False, **options}
    return stream(core.connect_get_namespaced_pod_exec, "box", "default", command=command, **options)


# What a command prints, all of it at once.
assert run(["echo", "hello there"]) == "hello there\n"
assert len(run(["head", "-c", "1000000", "/dev/zero"])) == 1000000

# Streams apart, input, and the exit code.
session = run(["sh", "-c", "read word; echo got $word; echo wrong >&2; exit 7"], stdin=True, _preload_content=False)
session.write_stdin("something\n")
session.run_forever(timeout=30)
assert session.read_stdout() == "got something\n"
assert session.read_stderr() == "wrong\n"
assert session.returncode == 7, session.returncode
session.close()

# A terminal: both streams are one.
session = run(["sh", "-c", "tty; echo wrong >&2"], stdin=True, tty=True, _preload_content=False)
session.run_forever(timeout=30)
text = session.read_stdout()
assert "/dev/pts/" in text and "wrong" in text, text
assert session.returncode == 0
session.close()

# What cannot be.
try:
    run(["true"], container="nobody")
    raise AssertionError("a command ran in no container")
except ApiException as error:
    assert error.status == 0 and "400" in str(error), error
print("done")

//! Helm's library, which is client-go: discovery, `RESTMapper`, server-side
//! apply, watches of unstructured objects, and releases kept in Secrets.

use std::path::PathBuf;
use std::process::Command;

use clients::Server;

#[test]
fn helm_makes_changes_and_removes_a_release() {
    let python = std::env::var_os("LIFEPOD_PYTHON").map(PathBuf::from);
    let python = python.expect("LIFEPOD_PYTHON names a Python with the package helm-python-sdk; `cargo xtask test` sets both up");
    let server = Server::start().unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/helm.py");
    let output = Command::new(&python)
        .arg(&script)
        .env("KUBECONFIG", server.kubeconfig())
        // Nothing of whoever runs this, and nothing left behind.
        .env("HOME", server.directory())
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", python.display()));
    let asked = server.asked();
    assert!(
        output.status.success() && output.stdout.ends_with(b"done\n"),
        "{}{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        asked.join("\n")
    );
    let by_apply = asked.iter().filter(|line| line.contains("(application/apply-patch+yaml) -> 20"));
    assert!(by_apply.count() > 5, "{}", asked.join("\n"));
    assert!(asked.iter().any(|line| line.contains("watch=true")), "{}", asked.join("\n"));
}

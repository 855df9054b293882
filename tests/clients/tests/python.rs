//! The official Python client, in the virtual environment that `cargo xtask
//! test` sets up.

use std::path::PathBuf;
use std::process::Command;

use clients::Server;

#[test]
fn the_python_client_s_ordinary_use() {
    let python = std::env::var_os("LIFEPOD_PYTHON").map(PathBuf::from);
    let python = python.expect("LIFEPOD_PYTHON names a Python with the package kubernetes; `cargo xtask test` sets both up");
    let server = Server::start().unwrap();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python/ordinary.py");
    let output = Command::new(&python)
        .arg(&script)
        .env("KUBECONFIG", server.kubeconfig())
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", python.display()));
    assert!(
        output.status.success() && output.stdout.ends_with(b"done\n"),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

//! Builds the tutorial's images from Debian packages, without any registry:
//! `busybox:1.30` from `busybox-static`, `nginx:1.17.1` from `nginx` and the
//! libraries it needs. The names are those the tutorial's manifests use; the
//! versions inside are Debian's.
//!
//! The same packages always give the same bytes: entries are sorted, times are
//! fixed. Reading order: this file (what is in the images), `images/package.rs`
//! (getting and opening packages), `images/oci.rs` (writing archives).

mod oci;
mod package;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use oci::{Image, Node, Tree};
use package::{Package, Unpacked};

/// Changes when the content of the images does for a reason other than packages.
const RECIPE: u32 = 1;

const BUSYBOX: &str = "busybox-static";
/// nginx, and the packages its binary loads libraries from (its `Depends`).
const NGINX: [&str; 7] = ["nginx", "nginx-common", "libc6", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"];

/// The user nginx's workers run as, as in the official image.
const NGINX_ID: u32 = 101;

const NGINX_CONF: &str = "\
user nginx;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log warn;

events {
    worker_connections 1024;
}

http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
";

const NGINX_SITE: &str = "\
server {
    listen 80;
    server_name localhost;
    root /usr/share/nginx/html;
    index index.html;
}
";

/// Writes `busybox-1.30.tar` and `nginx-1.17.1.tar` (OCI archives) into
/// `out_dir`, unless they are there already, made of the current packages.
pub(crate) fn run(out_dir: &Path) -> Result<()> {
    fs::create_dir_all(out_dir).with_context(|| format!("making {}", out_dir.display()))?;
    let wanted: Vec<&str> = std::iter::once(BUSYBOX).chain(NGINX).collect();
    let packages = package::candidates(&wanted)?;
    let made_of = made_of(&packages);
    let stamp = out_dir.join("packages.json");
    let archives = [out_dir.join("busybox-1.30.tar"), out_dir.join("nginx-1.17.1.tar")];
    if archives.iter().all(|archive| archive.is_file()) && fs::read_to_string(&stamp).is_ok_and(|text| text == made_of) {
        eprintln!("images are up to date in {}", out_dir.display());
        return Ok(());
    }
    let scratch = tempfile::tempdir().context("making a temporary directory")?;
    let unpacked = package::unpack(&packages, scratch.path())?;
    let architecture = package::architecture()?;
    let base = busybox_tree(&unpacked)?;
    let busybox = Image {
        name: "docker.io/library/busybox:1.30",
        architecture: &architecture,
        layers: vec![base.to_layer()?],
        config: json!({ "Env": [PATH], "Cmd": ["sh"] }),
    };
    let nginx = Image {
        name: "docker.io/library/nginx:1.17.1",
        architecture: &architecture,
        layers: vec![base.to_layer()?, nginx_tree(&unpacked)?.to_layer()?],
        config: json!({
            "Env": [PATH],
            "Cmd": ["nginx", "-g", "daemon off;"],
            "ExposedPorts": { "80/tcp": {} },
            // Finish the requests under way, as the official image does.
            "StopSignal": "SIGQUIT",
        }),
    };
    // The stamp goes first and comes last: it never vouches for half a build.
    if stamp.exists() {
        fs::remove_file(&stamp).with_context(|| format!("removing {}", stamp.display()))?;
    }
    for (image, archive) in [busybox, nginx].iter().zip(&archives) {
        let digest = image.write(archive)?;
        eprintln!("{} {digest} {}", image.name, archive.display());
    }
    fs::write(&stamp, made_of).with_context(|| format!("writing {}", stamp.display()))
}

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn made_of(packages: &[Package]) -> String {
    let versions: BTreeMap<&str, &str> = packages
        .iter()
        .map(|package| (package.name.as_str(), package.version.as_str()))
        .collect();
    format!("{:#}\n", json!({ "recipe": RECIPE, "packages": versions }))
}

/// A root file system with busybox as every command.
fn busybox_tree(unpacked: &Unpacked) -> Result<Tree> {
    let binary = unpacked.path("bin/busybox");
    let mut tree = Tree::default();
    for directory in [
        "bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/log",
    ] {
        tree.add(directory, Node::directory(0o755));
    }
    tree.add("root", Node::directory(0o700));
    tree.add("tmp", Node::directory(0o1777));
    tree.add("var/tmp", Node::directory(0o1777));
    tree.add("var/run", Node::link("../run"));
    tree.add(
        "etc/passwd",
        Node::file(
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
        ),
    );
    tree.add("etc/group", Node::file(0o644, "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"));
    tree.add("etc/shadow", Node::file(0o600, "root:*:::::::\nnobody:*:::::::\n"));
    tree.add(
        "etc/nsswitch.conf",
        Node::file(0o644, "passwd: files\ngroup: files\nhosts: files dns\n"),
    );
    tree.add(
        "bin/busybox",
        Node::file(0o755, fs::read(&binary).with_context(|| format!("reading {}", binary.display()))?),
    );
    let listed = Command::new(&binary)
        .arg("--list")
        .output()
        .with_context(|| format!("running {} --list", binary.display()))?;
    ensure!(listed.status.success(), "{} --list: {}", binary.display(), listed.status);
    let applets = String::from_utf8(listed.stdout).context("busybox's list of commands")?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tree.add(&format!("bin/{applet}"), Node::link("busybox"));
    }
    for needed in ["sh", "cat", "echo", "nc", "nslookup", "ping", "sleep", "wget"] {
        ensure!(
            tree.has(&format!("bin/{needed}")),
            "{BUSYBOX} has no {needed}; the tutorial needs it"
        );
    }
    // Scripts begin with this path.
    tree.add("usr/bin/env", Node::link("../../bin/busybox"));
    Ok(tree)
}

/// What nginx needs beside [`busybox_tree`].
fn nginx_tree(unpacked: &Unpacked) -> Result<Tree> {
    let mut tree = Tree::default();
    let read = |path: &str| fs::read(unpacked.path(path)).with_context(|| format!("reading {path} from its package"));
    // Listed because this layer puts something into them.
    for directory in ["etc", "run", "usr", "usr/sbin", "var", "var/log"] {
        tree.add(directory, Node::directory(0o755));
    }
    for directory in [
        "etc/nginx",
        "etc/nginx/conf.d",
        "usr/share",
        "usr/share/nginx",
        "usr/share/nginx/html",
        "var/cache",
        "var/lib",
        "var/log/nginx",
    ] {
        tree.add(directory, Node::directory(0o755));
    }
    tree.add("var/lib/nginx", Node::directory(0o755).owned(NGINX_ID));
    tree.add("etc/passwd", Node::file(0o644, format!("root:x:0:0:root:/root:/bin/sh\nnginx:x:{NGINX_ID}:{NGINX_ID}:nginx:/var/lib/nginx:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n")));
    tree.add(
        "etc/group",
        Node::file(0o644, format!("root:x:0:\ntty:x:5:\nnginx:x:{NGINX_ID}:\nnogroup:x:65534:\n")),
    );
    tree.add("etc/nginx/nginx.conf", Node::file(0o644, NGINX_CONF));
    tree.add("etc/nginx/conf.d/default.conf", Node::file(0o644, NGINX_SITE));
    tree.add("etc/nginx/mime.types", Node::file(0o644, read("etc/nginx/mime.types")?));
    let page = read("usr/share/nginx/html/index.html")?;
    ensure!(
        String::from_utf8_lossy(&page).contains("Welcome to nginx!"),
        "nginx-common's index.html does not say \"Welcome to nginx!\""
    );
    tree.add("usr/share/nginx/html/index.html", Node::file(0o644, page));
    tree.add("var/log/nginx/access.log", Node::link("/dev/stdout"));
    tree.add("var/log/nginx/error.log", Node::link("/dev/stderr"));
    tree.add("usr/sbin/nginx", Node::file(0o755, read("usr/sbin/nginx")?));
    add_libraries(&mut tree, unpacked)?;
    Ok(tree)
}

/// Adds the libraries nginx loads. The packages' own loader says which; it
/// only lists them and runs nothing.
fn add_libraries(tree: &mut Tree, unpacked: &Unpacked) -> Result<()> {
    let triplet = multiarch()?;
    let directories = [format!("lib/{triplet}"), format!("usr/lib/{triplet}")];
    let loader = fs::read_dir(unpacked.path(&directories[0]))
        .with_context(|| format!("listing {} of libc6", directories[0]))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
        .context("libc6 has no ld-linux")?;
    let library_path = directories
        .iter()
        .map(|directory| unpacked.path(directory).display().to_string())
        .collect::<Vec<_>>()
        .join(":");
    let listed = Command::new(&loader)
        .args(["--library-path", &library_path, "--list"])
        .arg(unpacked.path("usr/sbin/nginx"))
        .output()
        .with_context(|| format!("running {}", loader.display()))?;
    ensure!(
        listed.status.success(),
        "listing nginx's libraries: {}",
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    let mut found = vec![loader.clone()];
    for line in String::from_utf8(listed.stdout).context("the list of libraries")?.lines() {
        let Some((name, rest)) = line.split_once("=>") else { continue };
        let path = rest.split_whitespace().next().unwrap_or_default();
        ensure!(path.starts_with('/'), "library {} of nginx is in none of its packages", name.trim());
        found.push(path.into());
    }
    for path in found {
        let Ok(inside) = path.strip_prefix(unpacked.root()) else {
            bail!("library {} of nginx is in none of its packages", path.display())
        };
        let name = inside.to_str().context("a library's path")?;
        for parent in inside
            .ancestors()
            .skip(1)
            .filter_map(Path::to_str)
            .filter(|parent| !parent.is_empty())
        {
            tree.add(parent, Node::directory(0o755));
        }
        // Under the name it is asked for; a link to a versioned name is resolved.
        tree.add(
            name,
            Node::file(0o755, fs::read(&path).with_context(|| format!("reading {}", path.display()))?),
        );
    }
    // Binaries name the loader by an architecture-specific path outside those directories.
    let loader_name = loader.file_name().and_then(|name| name.to_str()).context("the loader's name")?;
    for directory in ["lib", "lib64"] {
        let link = unpacked.path(directory).join(loader_name);
        if fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink()) {
            tree.add(directory, Node::directory(0o755));
            tree.add(
                &format!("{directory}/{loader_name}"),
                Node::link(&format!("/{}/{loader_name}", directories[0])),
            );
        }
    }
    Ok(())
}

fn multiarch() -> Result<String> {
    let output = Command::new("dpkg-architecture").arg("-qDEB_HOST_MULTIARCH").output();
    if let Ok(output) = output
        && output.status.success()
    {
        return Ok(String::from_utf8(output.stdout).context("dpkg-architecture")?.trim().to_owned());
    }
    // That tool comes with compilers for packages; without it, Debian's names are these.
    match package::architecture()?.as_str() {
        "amd64" => Ok("x86_64-linux-gnu".to_owned()),
        "arm64" => Ok("aarch64-linux-gnu".to_owned()),
        other => bail!("images cannot be built on {other}: the library directory of that architecture is not known"),
    }
}

#[cfg(test)]
mod tests;

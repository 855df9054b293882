//! The tutorial's section 2, shown for real: a Pod whose init containers wait
//! for two addresses, from `kubectl create` to a page fetched from its IP.
//!
//! Everything runs on a [`e2e::Host`] without an uplink: not one packet leaves
//! the machine.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Platform;
use e2e::host::run as run_command;
use e2e::platform::Build;

use crate::{image_dir, images, release, setup};

const MANIFEST: &str = include_str!("../../tests/e2e/manifests/pod-initcontainer.yaml");
const POD: &str = "pod-initcontainer";
/// One turn of the init containers' loop: a ping that times out, and a sleep.
const TURN: Duration = Duration::from_secs(60);

/// Sets up, shows, and cleans up.
///
/// # Errors
/// When a step fails, or when anything is left behind.
pub(crate) fn run(root: &Path) -> Result<()> {
    setup::packages(&[setup::Tool::Ip, setup::Tool::Nft, setup::Tool::Kubectl, setup::Tool::Curl])?;
    eprintln!("==> images");
    images::run(&image_dir(root))?;
    let build = Build {
        binary: release(root)?.join("lifepod"),
        images: image_dir(root),
    };

    eprintln!("==> lifepod up, on a host of its own");
    let mut platform = Platform::start("demo", &build)?;
    platform.host.add_interface("ens33", "192.168.90.10/24")?;
    let shown = show(&platform);
    if shown.is_err() {
        eprintln!("log of lifepod up:\n{}", platform.log());
    }
    eprintln!("==> lifepod down");
    platform.down()?;
    shown?;
    let left = platform.leftovers()?;
    ensure!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    println!("nothing is left behind");
    Ok(())
}

fn show(platform: &Platform) -> Result<()> {
    kubectl(platform, &["create", "namespace", "dev"])?;
    println!("\n# cat {POD}.yaml\n{MANIFEST}\n# kubectl create -f {POD}.yaml");
    print!("{}", platform.create(MANIFEST)?);
    platform.wait_status("dev", POD, "Init:0/2", TURN)?;
    println!("\n# kubectl describe pod {POD} -n dev\n........");
    print!("{}", events(&platform.ok(&["describe", "pod", POD, "-n", "dev"])?));

    println!("\n# kubectl get pods {POD} -n dev -w");
    let watch = Watch::start(platform)?;
    watch.wait_first()?;
    for (address, status) in [("192.168.90.14/24", "Init:1/2"), ("192.168.90.15/24", "Running")] {
        println!("    [another shell] # ip address add {address} dev ens33");
        platform.host.add_address("ens33", address)?;
        platform.wait_status("dev", POD, status, TURN)?;
    }
    watch.stop()?;
    println!("\n# kubectl describe pod {POD} -n dev\n........");
    print!("{}", events(&platform.ok(&["describe", "pod", POD, "-n", "dev"])?));

    let ip = platform.ok(&["get", "pod", POD, "-n", "dev", "-o", "jsonpath={.status.podIP}"])?;
    println!("\n# curl {ip}");
    let page = run_command(platform.host.command("curl").args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "10",
        &format!("http://{ip}/"),
    ]))?;
    print!("{}", String::from_utf8_lossy(&page.stdout));
    ensure!(
        String::from_utf8_lossy(&page.stdout).contains("Welcome to nginx!"),
        "this is not nginx's page"
    );
    kubectl(platform, &["delete", "pod", POD, "-n", "dev"])
}

fn kubectl(platform: &Platform, args: &[&str]) -> Result<()> {
    println!("\n# kubectl {}", args.join(" "));
    print!("{}", platform.ok(args)?);
    Ok(())
}

/// The part of `kubectl describe` from `Events:` on.
fn events(description: &str) -> &str {
    description.find("Events:").map_or("", |at| &description[at..])
}

/// `kubectl get -w` in the background, its lines shown as they come.
struct Watch {
    child: Child,
    reader: std::thread::JoinHandle<()>,
    lines: std::sync::mpsc::Receiver<()>,
}

impl Watch {
    fn start(platform: &Platform) -> Result<Self> {
        let mut command: Command = platform.kubectl_command();
        command
            .args(["get", "pods", POD, "-n", "dev", "-w"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot run kubectl get -w")?;
        let stdout = child.stdout.take().context("kubectl has no output")?;
        let (shown, lines) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("{line}");
                let _ = std::io::stdout().flush();
                // Nobody counts the later ones.
                let _ = shown.send(());
            }
        });
        Ok(Self { child, reader, lines })
    }

    /// Waits for the header and the first row.
    fn wait_first(&self) -> Result<()> {
        for _ in 0..2 {
            self.lines.recv_timeout(TURN).context("kubectl get -w showed nothing")?;
        }
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        // The last change reaches the watch about when it reaches us.
        std::thread::sleep(Duration::from_millis(300));
        self.child.kill()?;
        self.child.wait()?;
        self.reader
            .join()
            .map_err(|_| anyhow::anyhow!("the reader of kubectl's output panicked"))
    }
}

//! The pod network with real traffic, all of it inside one host's namespace.

use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;

const LIMIT: Duration = Duration::from_secs(60);

/// Shows: 14.1.41
/// Fields: spec.hostNetwork status.hostIP status.podIPs.*
#[test]
fn root_pods_reach_each_other_and_are_reached() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("network", &build).unwrap();
    platform
        .create("apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: 'nginx:1.17.1'}]\n")
        .unwrap();
    platform.wait_status("default", "web", "Running", LIMIT).unwrap();
    let web = platform.ok(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]).unwrap();
    assert!(web.starts_with("10.244.0."), "{web}");
    let page = run(platform
        .host
        .command("curl")
        .args(["-sSf", "--max-time", "10", &format!("http://{web}/")]))
    .unwrap();
    assert!(String::from_utf8_lossy(&page.stdout).contains("Welcome to nginx!"));

    let proxied = |path: &str| platform.kubectl(&["get", "--raw", path]).unwrap();
    assert_eq!(proxied("/api/v1/nodes/node1/proxy/healthz").stdout, b"ok");
    let page = proxied("/api/v1/namespaces/default/pods/web:80/proxy/");
    assert!(String::from_utf8_lossy(&page.stdout).contains("Welcome to nginx!"), "{page:?}");
    let closed = proxied("/api/v1/namespaces/default/pods/web:81/proxy/");
    let said = String::from_utf8_lossy(&closed.stderr).into_owned();
    let refused = format!("error trying to reach service: dial tcp {web}:81: connect: connection refused");
    assert!(said.contains(&refused), "{said}");

    let client = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: client}}\nspec:\n  restartPolicy: Never\n  hostAliases: [{{ip: {web}, hostnames: [web.example]}}]\n  containers:\n  - name: c\n    image: busybox:1.30\n    command: ['sh', '-c', 'wget -q -O - http://web.example/ && wget -q -O /dev/null http://127.0.0.1/ ; hostname; cat /etc/hosts /etc/hostname']\n"
    );
    platform.create(&client).unwrap();
    platform
        .wait_pod("default", "client", "Succeeded", LIMIT, |pod| {
            (pod["status"]["phase"] == "Succeeded").then_some(())
        })
        .unwrap();
    let log = platform.ok(&["logs", "client"]).unwrap();
    let ip = platform.ok(&["get", "pod", "client", "-o", "jsonpath={.status.podIP}"]).unwrap();
    assert!(log.contains("Welcome to nginx!"), "{log}");
    assert!(log.contains("# Kubernetes-managed hosts file."), "{log}");
    assert!(log.lines().any(|line| line == format!("{ip}\tclient")), "{log}");
    assert!(log.lines().any(|line| line == format!("{web}\tweb.example")), "{log}");
    assert_eq!(
        log.lines().filter(|line| *line == "client").count(),
        2,
        "hostname and /etc/hostname: {log}"
    );

    platform.create("apiVersion: v1\nkind: Pod\nmetadata: {name: host}\nspec:\n  hostNetwork: true\n  restartPolicy: Never\n  containers: [{name: c, image: 'busybox:1.30', command: ['ip', 'link']}]\n").unwrap();
    platform
        .wait_pod("default", "host", "Succeeded", LIMIT, |pod| {
            (pod["status"]["phase"] == "Succeeded").then_some(())
        })
        .unwrap();
    let links = platform.ok(&["logs", "host"]).unwrap();
    assert!(links.contains("lifepod0"), "{links}");

    platform.ok(&["delete", "pods", "--all", "--timeout=40s"]).unwrap();
    let links = platform.host.links().unwrap();
    assert_eq!(links, ["lo", "lifepod0"], "only the bridge stays while the platform is up");
    platform.down().unwrap();
    assert_eq!(platform.host.links().unwrap(), ["lo"]);
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

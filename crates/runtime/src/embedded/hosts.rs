//! Content of a pod's `/etc/hosts`.
//!
//! Source: kubelet `ensureHostsFile`, `managedHostsFileContent`,
//! `nodeHostsFileContent` and `hostsEntriesFromHostAliases`: the same words, so
//! that tools which look for them find them.

use std::fmt::Write;
use std::net::IpAddr;

/// The file of a pod with a network of its own.
pub(super) fn managed(ips: &[IpAddr], hostname: &str, domain: &str, aliases: &[(IpAddr, Vec<String>)]) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    // The hostname may be the full name itself.
    let short = hostname
        .strip_suffix(domain)
        .and_then(|short| short.strip_suffix('.'))
        .unwrap_or(hostname);
    for ip in ips {
        let _ = if domain.is_empty() {
            writeln!(text, "{ip}\t{hostname}")
        } else {
            writeln!(text, "{ip}\t{short}.{domain}\t{short}")
        };
    }
    with_aliases(text, aliases)
}

/// The file of a pod on the node's network.
pub(super) fn of_node(node_file: &str, aliases: &[(IpAddr, Vec<String>)]) -> String {
    with_aliases(format!("# Kubernetes-managed hosts file (host network).\n{node_file}"), aliases)
}

fn with_aliases(mut text: String, aliases: &[(IpAddr, Vec<String>)]) -> String {
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for (ip, names) in aliases {
        let _ = writeln!(text, "{ip}\t{}", names.join("\t"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_follow_the_pod() {
        let ip = "10.1.0.5".parse().unwrap();
        let text = managed(&[ip], "web", "", &[("1.2.3.4".parse().unwrap(), vec!["a".into(), "b".into()])]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("10.1.0.5\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"),
            "{text}"
        );
    }

    #[test]
    fn a_pod_with_a_domain_has_its_full_name_first() {
        let ip = "10.1.0.5".parse().unwrap();
        for hostname in ["web", "web.sub.dev.svc.cluster.local"] {
            let text = managed(&[ip], hostname, "sub.dev.svc.cluster.local", &[]);
            assert!(text.ends_with("10.1.0.5\tweb.sub.dev.svc.cluster.local\tweb\n"), "{text}");
        }
    }

    #[test]
    fn the_nodes_own_lines_are_kept() {
        assert_eq!(
            of_node("127.0.0.1 here\n", &[]),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 here\n"
        );
    }
}

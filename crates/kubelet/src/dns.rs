//! A pod's `/etc/resolv.conf`, within what resolvers read.
//!
//! Source: Kubernetes "DNS for Services and Pods"; upstream
//! `pkg/kubelet/network/dns/dns.go`.

use api::typed::{Pod, PodDNSConfig};

/// Most name servers and search domains a resolver reads.
const MAX_NAME_SERVERS: usize = 3;
const MAX_SEARCH_DOMAINS: usize = 32;
/// Longest list of search domains, and longest search domain.
const SEARCH_LIST_BYTES_MAX: usize = 2_048;
const SEARCH_DOMAIN_BYTES_MAX: usize = 253;

/// What is written for a pod, and what had to be left out.
pub(crate) struct Formed {
    pub(crate) text: String,
    /// The messages of events `DNSConfigForming`.
    pub(crate) omitted: Vec<String>,
}

/// Content of `/etc/resolv.conf`. No cluster DNS is served, so `ClusterFirst`
/// means what `Default` does, as upstream without a cluster DNS address.
pub(crate) fn form(pod: &Pod, node: &str) -> Formed {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref());
    let mut servers: Vec<String> = Vec::new();
    let mut searches: Vec<String> = Vec::new();
    let mut options: Vec<String> = Vec::new();
    if policy != Some("None") {
        for line in node.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => searches = words.map(str::to_owned).collect(),
                Some("options") => options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
    }
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        add(config, &mut servers, &mut searches, &mut options);
    }
    let mut omitted = Vec::new();
    let servers = fitting_servers(distinct(servers), &mut omitted);
    let searches = fitting_searches(distinct(searches), &mut omitted);
    let mut text = String::new();
    if !searches.is_empty() {
        text += &format!("search {}\n", searches.join(" "));
    }
    for server in servers {
        text += &format!("nameserver {server}\n");
    }
    if !options.is_empty() {
        text += &format!("options {}\n", options.join(" "));
    }
    Formed { text, omitted }
}

fn add(config: &PodDNSConfig, servers: &mut Vec<String>, searches: &mut Vec<String>, options: &mut Vec<String>) {
    servers.extend(config.nameservers.iter().flatten().cloned());
    searches.extend(config.searches.iter().flatten().cloned());
    for option in config.options.iter().flatten() {
        let Some(name) = option.name.as_deref() else { continue };
        options.retain(|known| known.split(':').next() != Some(name));
        let value = option.value.as_deref();
        options.push(value.map_or_else(|| name.to_owned(), |value| format!("{name}:{value}")));
    }
}

fn distinct(list: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for entry in list {
        if !kept.contains(&entry) {
            kept.push(entry);
        }
    }
    kept
}

fn fitting_servers(mut servers: Vec<String>, omitted: &mut Vec<String>) -> Vec<String> {
    if servers.len() > MAX_NAME_SERVERS {
        servers.truncate(MAX_NAME_SERVERS);
        omitted.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            servers.join(" ")
        ));
    }
    servers
}

fn fitting_searches(mut searches: Vec<String>, omitted: &mut Vec<String>) -> Vec<String> {
    let all = searches.len();
    searches.truncate(MAX_SEARCH_DOMAINS);
    searches.retain(|search| search.len() <= SEARCH_DOMAIN_BYTES_MAX);
    while searches.join(" ").len() > SEARCH_LIST_BYTES_MAX {
        searches.pop();
    }
    if searches.len() < all {
        omitted.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        ));
    }
    searches
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn formed(policy: &str, config: Value, node: &str) -> Formed {
        let pod = json!({"spec": {"dnsPolicy": policy, "dnsConfig": config, "containers": []}});
        form(&serde_json::from_value(pod).unwrap(), node)
    }

    #[test]
    fn dns_settings_are_merged_with_the_nodes() {
        let node = "nameserver 10.0.0.1\nsearch a.example b.example\noptions ndots:1\n";
        let config = json!({ "nameservers": ["10.0.0.2"], "options": [{ "name": "ndots", "value": "5" }] });
        let merged = formed("Default", config.clone(), node);
        assert_eq!(
            merged.text,
            "search a.example b.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n"
        );
        assert!(merged.omitted.is_empty());
        assert_eq!(formed("None", config, node).text, "nameserver 10.0.0.2\noptions ndots:5\n");
    }

    #[test]
    fn what_no_resolver_reads_is_left_out_and_told() {
        let servers = formed(
            "None",
            json!({ "nameservers": ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.3", "10.0.0.4"] }),
            "",
        );
        assert_eq!(servers.text, "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n");
        assert_eq!(
            servers.omitted,
            [
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 10.0.0.1 10.0.0.2 10.0.0.3"
            ]
        );
        let long = "x".repeat(254);
        let searches = formed("None", json!({ "searches": ["a.example", long] }), "nameserver 10.0.0.9\n");
        assert_eq!(searches.text, "search a.example\n");
        assert_eq!(
            searches.omitted,
            ["Search Line limits were exceeded, some search paths have been omitted, the applied search line is: a.example"]
        );
        let many: Vec<String> = (0..40).map(|n| format!("{n}.example")).collect();
        assert_eq!(formed("None", json!({ "searches": many }), "").text.split_whitespace().count(), 33);
        let wide: Vec<String> = (0..20).map(|n| format!("{n:0250}")).collect();
        let wide = formed("None", json!({ "searches": wide }), "");
        assert_eq!(
            (wide.text.split_whitespace().count(), wide.omitted.len()),
            (1 + 8, 1),
            "2048 bytes hold eight of them"
        );
    }
}

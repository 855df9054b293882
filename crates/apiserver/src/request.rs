//! What a request asks for: path, method and query to a [`Target`]. Pure.
//!
//! Source: Kubernetes "API concepts", "Resource URIs"; upstream
//! `apiserver/pkg/endpoints/request/requestinfo.go`.

use api::Status;
use api::selector::FieldSelector;
use http::Method;
use percent_encoding::percent_decode_str;

/// What is done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// One object, or a subresource of it.
    Get,
    /// Objects of a collection.
    List,
    /// Changes of a collection or of one object.
    Watch,
    /// A new object.
    Create,
    /// An object replaced.
    Update,
    /// An object changed in part.
    Patch,
    /// An object removed.
    Delete,
    /// Objects of a collection removed.
    DeleteCollection,
    /// What has no verb of its own: OPTIONS, to a proxied server. Only who may
    /// do everything may do this.
    Other,
}

impl Verb {
    /// As authorization and its messages name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Other => "",
        }
    }

    /// As metrics name it.
    #[must_use]
    pub const fn metric(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::List => "LIST",
            Self::Watch => "WATCH",
            Self::Create => "POST",
            Self::Update => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::DeleteCollection => "DELETECOLLECTION",
            Self::Other => "CONNECT",
        }
    }

    /// Whether nothing is changed by it.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// A request for a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceRequest {
    /// Empty for the core group.
    pub group: String,
    /// For example `v1`.
    pub version: String,
    /// Plural, as in the path.
    pub resource: String,
    /// Empty for cluster-wide requests.
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    /// Empty for the object itself.
    pub subresource: String,
    /// What is done.
    pub verb: Verb,
    /// Which objects of a collection are meant, for authorization. Everything,
    /// where the selector of the query does not parse: it is refused later.
    pub fields: FieldSelector,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A resource.
    Resource(ResourceRequest),
    /// Anything else: health, version, discovery. The path without its
    /// trailing slash.
    Path(String),
}

/// The decoded query of a request, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string.
    ///
    /// # Errors
    /// 400 when it is not UTF-8 after decoding.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let decode = |part: &str| {
            let spaced = part.replace('+', " ");
            percent_decode_str(&spaced)
                .decode_utf8()
                .map(std::borrow::Cow::into_owned)
                .map_err(|_| Status::bad_request(format!("the query parameter {part:?} is not valid UTF-8 after percent-decoding")))
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// The first value of a parameter; an empty value counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A boolean parameter as upstream reads it: everything but `0` and
    /// `false` is true, a bare name too.
    ///
    /// Source: upstream `apimachinery/pkg/runtime/conversion.go`,
    /// `Convert_Slice_string_To_bool`.
    #[must_use]
    pub fn boolean(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(!(value == "0" || value.eq_ignore_ascii_case("false")))
    }

    /// An integer parameter.
    ///
    /// # Errors
    /// 400 when it is not an integer.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        let parse = |value: &str| {
            value
                .parse()
                .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {value:?}: invalid syntax")))
        };
        self.get(name).map(parse).transpose()
    }
}

/// Decides what a request is for.
///
/// # Errors
/// 400 for a path that tries to be another one after decoding, 405 for a
/// method no resource knows.
pub fn target(method: &Method, path: &str, query: &Query) -> Result<Target, Status> {
    // Behind `proxy` stands a path of somebody else's.
    let parts = segments(proxied(path).map_or(path, |(own, _)| own))?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(Target::Path(format!("/{}", parts.join("/")))),
    };
    let (namespace, resource, name, tail): (&str, &str, &str, &[&str]) = match rest {
        ["namespaces", name, subresource @ ("status" | "finalize")] => (name, "namespaces", name, std::slice::from_ref(subresource)),
        ["namespaces", name] => (name, "namespaces", name, &[]),
        ["namespaces", namespace, resource] => (namespace, resource, "", &[]),
        ["namespaces", namespace, resource, name, tail @ ..] => (namespace, resource, name, tail),
        [resource] => ("", resource, "", &[]),
        [resource, name, tail @ ..] => ("", resource, name, tail),
        [] => return Err(Status::no_such_path()),
    };
    // A subresource of a subresource is not served.
    let subresource = match tail {
        [] => "",
        [subresource] => subresource,
        _ => return Err(Status::no_such_path()),
    };
    // Upstream routes HEAD to what it proxies, and to nothing of its own.
    let method = if *method == Method::HEAD && subresource == "proxy" {
        &Method::GET
    } else {
        method
    };
    let watch = subresource.is_empty() && query.boolean("watch").unwrap_or(false);
    let verb = match *method {
        Method::OPTIONS if subresource == "proxy" => Verb::Other,
        _ => verb(method, name.is_empty(), watch)?,
    };
    let owned = |text: &str| text.to_owned();
    Ok(Target::Resource(ResourceRequest {
        group: owned(group),
        version: owned(version),
        resource: owned(resource),
        namespace: owned(namespace),
        name: owned(name),
        subresource: owned(subresource),
        verb,
        fields: query.get("fieldSelector").and_then(|text| text.parse().ok()).unwrap_or_default(),
    }))
}

/// Splits the path of a proxied request behind `proxy`: the part that names
/// the object, and the path for the other side with its slash, as it was sent.
/// `None` for every other path.
#[must_use]
pub fn proxied(path: &str) -> Option<(&str, &str)> {
    let mut rest = path.strip_prefix("/api/v1/")?;
    let mut skip = |count: usize| {
        for _ in 0..count {
            rest = rest.split_once('/')?.1;
        }
        Some(rest)
    };
    let tail = if path.starts_with("/api/v1/namespaces/") {
        skip(4)?
    } else {
        skip(2)?
    };
    let tail = tail.strip_prefix("proxy").filter(|tail| tail.is_empty() || tail.starts_with('/'))?;
    Some(path.split_at(path.len() - tail.len()))
}

fn verb(method: &Method, collection: bool, watch: bool) -> Result<Verb, Status> {
    Ok(match *method {
        Method::GET if watch => Verb::Watch,
        Method::GET if collection => Verb::List,
        Method::GET => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE if collection => Verb::DeleteCollection,
        Method::DELETE => Verb::Delete,
        _ => {
            return Err(Status::method_not_allowed(
                "the server does not allow this method on the requested resource",
            ));
        }
    })
}

/// The decoded segments of a path. A segment that holds a slash, a dot name or
/// a control character after decoding would mean another path to whoever
/// splits it next (the store's keys, the node's API), so it is refused.
fn segments(path: &str) -> Result<Vec<String>, Status> {
    let trimmed = path.strip_prefix('/').unwrap_or(path);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Ok(Vec::new());
    }
    trimmed.split('/').map(segment).collect()
}

fn segment(part: &str) -> Result<String, Status> {
    let refuse = || Status::bad_request(format!("the path segment {part:?} is not allowed"));
    let decoded = percent_decode_str(part).decode_utf8().map_err(|_| refuse())?.into_owned();
    let tricky = decoded.is_empty()
        || decoded == "."
        || decoded == ".."
        || decoded.chars().any(|c| c == '/' || c == '%' || c == '\\' || c.is_control());
    if tricky { Err(refuse()) } else { Ok(decoded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(method: Method, uri: &str) -> Result<Target, Status> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        target(&method, path, &Query::parse(query)?)
    }

    fn shown(method: Method, uri: &str) -> String {
        match parsed(method, uri) {
            Ok(Target::Resource(r)) => {
                format!(
                    "{} {}/{} {} ns={} name={} sub={}",
                    r.verb.name(),
                    r.group,
                    r.version,
                    r.resource,
                    r.namespace,
                    r.name,
                    r.subresource
                )
            }
            Ok(Target::Path(path)) => format!("path {path}"),
            Err(status) => format!("{} {}", status.code, status.reason),
        }
    }

    #[test]
    fn paths_and_methods_mean_what_upstream_says() {
        use Method as M;
        let table = [
            (M::GET, "/", "path /"),
            (M::GET, "/api", "path /api"),
            (M::GET, "/api/v1", "path /api/v1"),
            (M::GET, "/api/v1/", "path /api/v1"),
            (M::GET, "/apis/apps/v1", "path /apis/apps/v1"),
            (M::GET, "/healthz/ping", "path /healthz/ping"),
            (M::GET, "/api/v1/pods", "list /v1 pods ns= name= sub="),
            (M::HEAD, "/api/v1/pods", "405 MethodNotAllowed"),
            (M::GET, "/api/v1/pods?watch=true", "watch /v1 pods ns= name= sub="),
            (M::GET, "/api/v1/pods?watch=1", "watch /v1 pods ns= name= sub="),
            (M::GET, "/api/v1/pods?watch", "watch /v1 pods ns= name= sub="),
            (M::GET, "/api/v1/pods?watch=0", "list /v1 pods ns= name= sub="),
            (M::GET, "/api/v1/pods?watch=maybe", "watch /v1 pods ns= name= sub="),
            (M::GET, "/api/v1/namespaces", "list /v1 namespaces ns= name= sub="),
            (M::GET, "/api/v1/namespaces/a", "get /v1 namespaces ns=a name=a sub="),
            (
                M::PUT,
                "/api/v1/namespaces/a/finalize",
                "update /v1 namespaces ns=a name=a sub=finalize",
            ),
            (
                M::PATCH,
                "/api/v1/namespaces/a/status",
                "patch /v1 namespaces ns=a name=a sub=status",
            ),
            (M::POST, "/api/v1/namespaces/a/pods", "create /v1 pods ns=a name= sub="),
            (M::DELETE, "/api/v1/namespaces/a/pods", "deletecollection /v1 pods ns=a name= sub="),
            (M::DELETE, "/api/v1/namespaces/a/pods/b", "delete /v1 pods ns=a name=b sub="),
            (
                M::GET,
                "/api/v1/namespaces/a/pods/b/log?follow=true",
                "get /v1 pods ns=a name=b sub=log",
            ),
            (
                M::POST,
                "/api/v1/namespaces/a/pods/b/binding",
                "create /v1 pods ns=a name=b sub=binding",
            ),
            (
                M::GET,
                "/apis/g.io/v1/namespaces/a/things/b%3Ac",
                "get g.io/v1 things ns=a name=b:c sub=",
            ),
            (M::GET, "/apis/g.io/v1/things/b", "get g.io/v1 things ns= name=b sub="),
            (M::OPTIONS, "/api/v1/pods", "405 MethodNotAllowed"),
            (
                M::GET,
                "/api/v1/namespaces/a/pods/https:b:443/proxy/x/..%2f//y",
                "get /v1 pods ns=a name=https:b:443 sub=proxy",
            ),
            (M::OPTIONS, "/api/v1/nodes/n/proxy/x", " /v1 nodes ns= name=n sub=proxy"),
            (M::HEAD, "/api/v1/nodes/n/proxy/x", "get /v1 nodes ns= name=n sub=proxy"),
            (M::POST, "/api/v1/nodes/n/proxy", "create /v1 nodes ns= name=n sub=proxy"),
            (M::PATCH, "/api/v1/nodes/n/proxy/", "patch /v1 nodes ns= name=n sub=proxy"),
            (M::GET, "/api/v1/namespaces/a/pods/b/proxyx/y", "404 NotFound"),
            (M::GET, "/api/v1/namespaces/a/pods/b/status/y", "404 NotFound"),
        ];
        for (method, uri, expected) in table {
            assert_eq!(shown(method, uri), expected, "{uri}");
        }
    }

    #[test]
    fn paths_that_pretend_to_be_another_are_refused() {
        for path in [
            "/api/v1/namespaces/a/pods/..",
            "/api/v1/namespaces/a/pods/%2e%2e",
            "/api/v1/namespaces/a/pods/b%2fstatus",
            "/api/v1/namespaces/a/pods/b%252fstatus",
            "/api/v1/namespaces/a/pods/b%00",
            "/api/v1/namespaces/a//pods",
            "/api/v1/namespaces/a/pods/%ff",
            "/api/v1/namespaces/a/pods/b%5c",
            "//api/v1/pods",
        ] {
            assert_eq!(shown(Method::GET, path), "400 BadRequest", "{path}");
        }
    }

    #[test]
    fn queries_decode_once() {
        let query = Query::parse("labelSelector=a%3Db%2Cc&x=1+2&limit=7&flag&y=%252f").unwrap();
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert_eq!(query.get("x"), Some("1 2"));
        assert_eq!(query.get("y"), Some("%2f"));
        assert_eq!(query.integer("limit").unwrap(), Some(7));
        assert_eq!(query.boolean("flag"), Some(true));
        assert_eq!(query.boolean("none"), None);
        assert!(query.integer("x").is_err());
        assert!(Query::parse("a=%ff").is_err());
    }
}

//! Formats of names, labels and keys. Each function returns every rule that is
//! broken, in upstream's words, because clients match on them.
//!
//! Source: API concepts page "Object Names and IDs"; upstream
//! `apimachinery/pkg/util/validation/validation.go`.

/// Longest DNS label, port of a qualified name, and label value.
const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
const SUBDOMAIN_MAX: usize = 253;

const LABEL_TEXT: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_TEXT: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_TEXT: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_TEXT: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_TEXT: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER_TEXT: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// What a check returns: the texts of the rules that are broken.
pub type Checked = Result<(), Vec<String>>;

fn checked(texts: Vec<String>) -> Checked {
    if texts.is_empty() { Ok(()) } else { Err(texts) }
}

/// `must be no more than <max> characters`.
#[must_use]
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn sized(text: &str, max: usize, fits: bool, rule: &str) -> Checked {
    let mut texts = Vec::new();
    if text.len() > max {
        texts.push(too_long(max));
    }
    if !fits {
        texts.push(rule.to_owned());
    }
    checked(texts)
}

/// An RFC 1123 label: `web-1`.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn dns1123_label(text: &str) -> Checked {
    let rule = if text.split('.').all(is_label) {
        "must not contain dots"
    } else {
        LABEL_TEXT
    };
    sized(text, LABEL_MAX, is_label(text), rule)
}

/// An RFC 1123 subdomain: labels joined by dots. The length of one label is
/// not limited, as upstream.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn dns1123_subdomain(text: &str) -> Checked {
    sized(text, SUBDOMAIN_MAX, text.split('.').all(is_label), SUBDOMAIN_TEXT)
}

/// As [`dns1123_subdomain`], but `_` is allowed: DNS search paths.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn dns1123_subdomain_with_underscore(text: &str) -> Checked {
    const TEXT: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '(_)?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
    let plain = text.strip_prefix('_').unwrap_or(text).replace('_', "-");
    let edges_fit = plain.split('.').all(is_label)
        && text
            .strip_prefix('_')
            .unwrap_or(text)
            .split('.')
            .all(|part| !part.starts_with('_') && !part.ends_with('_'));
    sized(text, SUBDOMAIN_MAX, edges_fit, TEXT)
}

/// An RFC 1035 label: as [`dns1123_label`], and it begins with a letter.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn dns1035_label(text: &str) -> Checked {
    sized(
        text,
        LABEL_MAX,
        is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase()),
        LABEL_1035_TEXT,
    )
}

/// A qualified name: `[prefix/]name`, such as a label key.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn qualified_name(text: &str) -> Checked {
    let mut texts = Vec::new();
    let (prefix, name) = match text.split_once('/') {
        None => (None, text),
        Some((prefix, name)) if !name.contains('/') => (Some(prefix), name),
        Some(_) => {
            return Err(vec![format!(
                "a qualified name {QUALIFIED_TEXT} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )]);
        }
    };
    match prefix {
        None => {}
        Some("") => texts.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            if let Err(broken) = dns1123_subdomain(prefix) {
                texts.extend(broken.iter().map(|text| format!("prefix part {text}")));
            }
        }
    }
    if name.is_empty() {
        texts.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        texts.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        texts.push(format!("name part {QUALIFIED_TEXT}"));
    }
    checked(texts)
}

/// A label value; may be empty.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn label_value(text: &str) -> Checked {
    sized(text, LABEL_MAX, text.is_empty() || is_qualified_part(text), VALUE_TEXT)
}

/// A key of a `ConfigMap` or Secret, which may become a file name.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn config_key(text: &str) -> Checked {
    let mut texts = Vec::new();
    if text.len() > SUBDOMAIN_MAX {
        texts.push(too_long(SUBDOMAIN_MAX));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        texts.push(CONFIG_KEY_TEXT.to_owned());
    }
    match text {
        "." => texts.push("must not be '.'".to_owned()),
        ".." => texts.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => texts.push("must not start with '..'".to_owned()),
        _ => {}
    }
    checked(texts)
}

/// The name of an environment variable: printable ASCII but `=`.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn env_name(text: &str) -> Checked {
    let fits = !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    if fits { Ok(()) } else { Err(vec![ENV_TEXT.to_owned()]) }
}

/// The name of an HTTP header of a probe or hook.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn http_header(text: &str) -> Checked {
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits { Ok(()) } else { Err(vec![HEADER_TEXT.to_owned()]) }
}

/// The name of a port: an RFC 6335 service name.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn port_name(text: &str) -> Checked {
    let mut texts = Vec::new();
    if text.len() > 15 {
        texts.push(too_long(15));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        texts.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        texts.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        texts.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        texts.push("must not begin or end with a hyphen".to_owned());
    }
    checked(texts)
}

/// A name that is only asked to be one segment of a path: events.
///
/// # Errors
/// The texts of the rules it breaks.
pub fn path_segment(text: &str) -> Checked {
    match text {
        "." | ".." => Err(vec![format!("may not be '{text}'")]),
        _ => checked(
            ["/", "%"]
                .iter()
                .filter(|c| text.contains(**c))
                .map(|c| format!("may not contain '{c}'"))
                .collect(),
        ),
    }
}

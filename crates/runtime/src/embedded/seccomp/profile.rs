//! A seccomp profile, and its text.
//!
//! Source: OCI runtime specification, `config-linux.md`, "Seccomp"; the same
//! JSON that containerd and CRI-O load for `Localhost`.

use serde::Deserialize;

/// What happens to a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Action {
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Comparison {
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// One condition on one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Argument {
    pub(super) index: u8,
    /// Compared with; the mask of [`Comparison::MaskedEqual`].
    pub(super) value: u64,
    /// Compared with under the mask.
    #[serde(default)]
    pub(super) value_two: u64,
    #[serde(rename = "op")]
    pub(super) comparison: Comparison,
}

/// Calls that are treated alike.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    pub(super) names: Vec<String>,
    pub(super) action: Action,
    #[serde(default)]
    pub(super) errno_ret: Option<u16>,
    #[serde(default)]
    pub(super) args: Option<Vec<Argument>>,
    /// Of Docker's own format: not the specification's, and a rule applied
    /// without its conditions would be another rule.
    #[serde(default)]
    includes: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    excludes: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Rule {
    pub(super) fn new(names: &[&str], action: Action, errno_ret: Option<u16>, args: Vec<Argument>) -> Self {
        Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            action,
            errno_ret,
            args: Some(args),
            includes: None,
            excludes: None,
        }
    }
}

/// The whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    pub(super) default_action: Action,
    #[serde(default)]
    pub(super) default_errno_ret: Option<u16>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    pub(super) syscalls: Option<Vec<Rule>>,
}

impl Profile {
    pub(super) fn new(default_action: Action, default_errno_ret: Option<u16>, syscalls: Vec<Rule>) -> Self {
        Self {
            default_action,
            default_errno_ret,
            flags: None,
            listener_path: None,
            syscalls: Some(syscalls),
        }
    }
}

/// Reads a profile.
///
/// # Errors
/// What is wrong or cannot be done here, for people.
pub(super) fn parse(text: &[u8]) -> Result<Profile, String> {
    let profile: Profile = serde_json::from_slice(text).map_err(|cause| cause.to_string())?;
    let asked = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if asked(&profile.flags) {
        return Err("flags are not supported: remove \"flags\"".to_owned());
    }
    if profile.listener_path.as_ref().is_some_and(|path| !path.is_empty()) {
        return Err("listeners are not supported: remove \"listenerPath\"".to_owned());
    }
    let rules = profile.syscalls.as_deref().unwrap_or_default();
    if profile.default_action == Action::Notify || rules.iter().any(|rule| rule.action == Action::Notify) {
        return Err("SCMP_ACT_NOTIFY is not supported".to_owned());
    }
    let conditional = |map: &Option<serde_json::Map<String, serde_json::Value>>| map.as_ref().is_some_and(|map| !map.is_empty());
    if rules.iter().any(|rule| conditional(&rule.includes) || conditional(&rule.excludes)) {
        return Err("\"includes\" and \"excludes\" are Docker's own and not part of the OCI format".to_owned());
    }
    if let Some(rule) = rules.iter().find(|rule| rule.args.iter().flatten().any(|arg| arg.index > 5)) {
        return Err(format!(
            "a rule on {:?} compares an argument over 5: a system call has six, counted from 0",
            rule.names
        ));
    }
    Ok(profile)
}

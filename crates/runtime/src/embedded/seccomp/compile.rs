//! From a profile to classic BPF, by `seccompiler`.
//!
//! Its filters know one answer for calls that match and one for the rest, so a
//! profile becomes several: one that gives the default answer to every call
//! that no rule names, and one per other answer. Where filters disagree, the
//! kernel takes the strictest answer, and of equally strict ones that of the
//! filter put on last. Source: seccomp(2), "return value precedence".

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use shim::seccomp::Filters;
use syscalls::Sysno;

use super::profile::{Action, Argument, Comparison, Profile, Rule};

/// Source: OCI runtime specification: the answer of `SCMP_ACT_ERRNO` without a number.
const EPERM: u16 = 1;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The programs of a profile, in the order to put them on. Calls this machine
/// does not have are left out, as every runtime does.
///
/// # Errors
/// A profile that no kernel takes.
pub(super) fn compile(profile: &Profile) -> Result<Filters, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|cause| format!("seccomp on this machine: {cause}"))?;
    let default = answer(profile.default_action, profile.default_errno_ret)?;
    let rules = profile.syscalls.as_deref().unwrap_or_default();
    let mut by_answer: Vec<(SeccompAction, Rules)> = Vec::new();
    let mut named = Rules::new();
    for rule in rules {
        let answer = answer(rule.action, rule.errno_ret)?;
        if answer == default {
            continue;
        }
        let calls = numbers(rule);
        let conditions = conditions(rule)?;
        add(&mut named, &calls, &conditions);
        match by_answer.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, rules)) => add(rules, &calls, &conditions),
            None => {
                let mut rules = Rules::new();
                add(&mut rules, &calls, &conditions);
                by_answer.push((answer, rules));
            }
        }
    }
    let mut programs = Vec::new();
    if default != SeccompAction::Allow {
        programs.push(program(named, default, SeccompAction::Allow, arch)?);
    }
    for (answer, rules) in by_answer.into_iter().filter(|(answer, _)| *answer != SeccompAction::Allow) {
        programs.push(program(rules, SeccompAction::Allow, answer, arch)?);
    }
    Ok(Filters(programs))
}

fn program(
    rules: Rules,
    mismatch: SeccompAction,
    matched: SeccompAction,
    arch: TargetArch,
) -> Result<Vec<shim::seccomp::Instruction>, String> {
    let filter = SeccompFilter::new(rules, mismatch, matched, arch).map_err(|cause| cause.to_string())?;
    let program = BpfProgram::try_from(filter).map_err(|cause| cause.to_string())?;
    Ok(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect())
}

fn answer(action: Action, errno: Option<u16>) -> Result<SeccompAction, String> {
    let number = u32::from(errno.unwrap_or(EPERM));
    Ok(match action {
        Action::Allow => SeccompAction::Allow,
        Action::Errno => SeccompAction::Errno(number),
        Action::KillThread => SeccompAction::KillThread,
        Action::KillProcess => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trace => SeccompAction::Trace(number),
        Action::Trap => SeccompAction::Trap,
        Action::Notify => return Err("SCMP_ACT_NOTIFY is not supported".to_owned()),
    })
}

fn numbers(rule: &Rule) -> Vec<i64> {
    rule.names
        .iter()
        .filter_map(|name| name.parse().ok())
        .map(|call: Sysno| i64::from(call.id()))
        .collect()
}

/// The alternatives under which a rule holds; none means always.
///
/// Source: runc `patchbpf` and `matchCall`: conditions hold together, unless
/// one argument is compared twice: then each stands for itself.
fn conditions(rule: &Rule) -> Result<Vec<SeccompRule>, String> {
    let args = rule.args.as_deref().unwrap_or_default();
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let repeats = args
        .iter()
        .enumerate()
        .any(|(at, arg)| args[..at].iter().any(|other| other.index == arg.index));
    let alternatives: Vec<&[Argument]> = if repeats { args.chunks(1).collect() } else { vec![args] };
    let made = alternatives.into_iter().map(|together| {
        let conditions = together.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        SeccompRule::new(conditions).map_err(|cause| cause.to_string())
    });
    made.collect()
}

fn condition(argument: &Argument) -> Result<SeccompCondition, String> {
    let (operator, value) = match argument.comparison {
        Comparison::NotEqual => (SeccompCmpOp::Ne, argument.value),
        Comparison::Less => (SeccompCmpOp::Lt, argument.value),
        Comparison::LessOrEqual => (SeccompCmpOp::Le, argument.value),
        Comparison::Equal => (SeccompCmpOp::Eq, argument.value),
        Comparison::GreaterOrEqual => (SeccompCmpOp::Ge, argument.value),
        Comparison::Greater => (SeccompCmpOp::Gt, argument.value),
        Comparison::MaskedEqual => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
    };
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Qword, operator, value).map_err(|cause| cause.to_string())
}

/// Adds a rule's calls. A call that a rule names without conditions needs no
/// others, which `seccompiler` says with an empty list.
fn add(rules: &mut Rules, calls: &[i64], conditions: &[SeccompRule]) {
    for call in calls {
        match rules.get_mut(call) {
            Some(known) if known.is_empty() => {}
            Some(known) if conditions.is_empty() => known.clear(),
            Some(known) => known.extend_from_slice(conditions),
            None => {
                rules.insert(*call, conditions.to_vec());
            }
        }
    }
}

//! Traps: what a manifest asks for and its author can hardly mean.

use std::time::Duration;

use lifecycle::flight::{Cause, Change, Transition};
use lifecycle::{Container, Desired, Handler, Probe, ProbeKind, RestartPolicy};

use super::{START, seconds};

/// Traps of the manifest alone.
pub(super) fn in_manifest(desired: &Desired) -> Vec<String> {
    let mut found = Vec::new();
    for container in desired.all() {
        let mut tell = |text: String| found.push(format!("container {}: {text}", container.name));
        liveness_before_readiness(container).into_iter().for_each(&mut tell);
        same_check(container).into_iter().for_each(&mut tell);
        if let Some(Handler::Sleep { time }) = &container.hooks.pre_stop
            && *time >= desired.grace
        {
            tell(format!(
                "its preStop hook sleeps {} and the grace is {}: the hook uses the grace up, and the process gets 2s between its stop signal and SIGKILL",
                seconds(*time),
                seconds(desired.grace)
            ));
        }
        for kind in ProbeKind::ALL {
            let Some(probe) = container.probes.get(kind) else { continue };
            let word = kind.as_str();
            if probe.timeout > probe.period {
                tell(format!(
                    "its {word} probe may take {} and is due every {}: a slow answer delays the next attempt",
                    seconds(probe.timeout),
                    seconds(probe.period)
                ));
            }
            if kind != ProbeKind::Readiness && desired.restart_policy == RestartPolicy::Never {
                tell(format!("its {word} probe ends it for good: restartPolicy is Never"));
            }
        }
        if container.probes.readiness.is_none() && container.probes.liveness.is_some() {
            tell("it has a liveness probe and no readiness probe: it counts as ready before it has answered anything".to_owned());
        }
    }
    if let Some(deadline) = desired.active_deadline.filter(|deadline| *deadline <= desired.grace) {
        found.push(format!(
            "activeDeadlineSeconds is {} and the grace {}: stopping may take longer than running",
            deadline.as_secs(),
            seconds(desired.grace)
        ));
    }
    found
}

/// When a probe that fails from the beginning has its result.
fn fails_after(probe: &Probe) -> Duration {
    probe.initial_delay + probe.period * probe.failure_threshold.saturating_sub(1)
}

fn liveness_before_readiness(container: &Container) -> Option<String> {
    let (liveness, readiness) = (container.probes.liveness.as_ref()?, container.probes.readiness.as_ref()?);
    let kill = fails_after(liveness);
    let ready = readiness.initial_delay + readiness.period * readiness.success_threshold.saturating_sub(1);
    let early = container.probes.startup.is_none() && kill <= ready;
    early.then(|| {
        format!(
            "its liveness probe can have it killed {} after its start, and its readiness probe cannot succeed before {}: a startup probe would hold both back",
            seconds(kill),
            seconds(ready)
        )
    })
}

fn same_check(container: &Container) -> Option<String> {
    let (liveness, readiness) = (container.probes.liveness.as_ref()?, container.probes.readiness.as_ref()?);
    let same = liveness.handler == readiness.handler && fails_after(liveness) <= fails_after(readiness);
    same.then(|| {
        "its liveness and readiness probes ask the same, and liveness gives up no later: it is killed when it should only be taken out of service"
            .to_owned()
    })
}

/// Traps in how the manifest meets the scenario.
pub(super) fn in_flight(flight: &[Transition]) -> Vec<String> {
    let killed = |transition: &Transition| match (&transition.change, &transition.because) {
        (Change::Stopping { .. }, Some(Cause::Probe { probe, .. })) => Some(probe.clone()),
        _ => None, // not by a probe
    };
    let Some(first) = flight.iter().position(|transition| killed(transition).is_some()) else {
        return Vec::new();
    };
    let kill = &flight[first];
    let worked = |transition: &Transition| {
        transition.container == kill.container
            && matches!(&transition.change, Change::ProbeTurned { probe, well: true } if Some(probe) == killed(kill).as_ref())
    };
    if flight[..first].iter().any(worked) {
        return Vec::new();
    }
    let kills = flight.iter().filter(|transition| killed(transition).is_some()).count();
    let again = if kills > 1 {
        format!(", and {} more times", kills - 1)
    } else {
        String::new()
    };
    vec![format!(
        "container {}: under this scenario its {} probe has it killed after {}, before it ever succeeded{again}",
        kill.container.as_deref().unwrap_or_default(),
        killed(kill).unwrap_or_default(),
        seconds(kill.at.since(START))
    )]
}

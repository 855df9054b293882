//! Runs one lifecycle hook.
//!
//! Source: upstream `lifecycle/handlers.go`.

use std::time::Duration;

use api::node::{ContainerId, RunState};
use lifecycle::{Failure, FailureClass, Handler, Hook, Outcome};

use crate::execute::{Ports, Subject};
use crate::handler::{self, Page, PageError};
use crate::redirect::{self, FollowError};

const USER_AGENT: &str = "kube-lifecycle/1.33";

/// The exit code of a command that SIGKILL ended, as that of all that are left
/// when the first process of a container ends.
const KILLED: i32 = 137;
/// How long after a command in it was killed a container may be seen to end.
const ENDS_WITHIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Whether an attempt has ended, or does so now.
async fn has_ended(ports: &Ports, subject: &Subject, id: &ContainerId) -> bool {
    let ended = async {
        loop {
            let seen = ports.runtime.observe(&subject.uid).await.unwrap_or_default();
            let attempt = seen.containers.iter().find(|attempt| attempt.id == *id);
            if attempt.is_some_and(|attempt| matches!(attempt.state, RunState::Exited(_))) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(ENDS_WITHIN, ended).await.is_ok()
}

/// Runs a hook of one attempt of `container`. Within `limit`, which the caller
/// keeps; a command is killed by it.
pub(crate) async fn run(
    ports: &Ports,
    subject: &Subject,
    container: &str,
    id: &ContainerId,
    (hook, handler): (Hook, &Handler),
    limit: Duration,
) -> Result<Outcome, Failure> {
    let failed = |message: String| Failure::new(FailureClass::Hook, message);
    match handler {
        Handler::Exec { command } => {
            let output = handler::exec(ports, subject, container, id, command, limit)
                .await
                .map_err(|error| failed(format!("{error}, message: \"\"")))?;
            let text = String::from_utf8_lossy(&output.output);
            if output.timed_out {
                let message = format!("command {:?} timed out, message: {text:?}", command.join(" "));
                return Err(Failure::new(FailureClass::Timeout, message));
            }
            if output.code == 0 {
                return Ok(Outcome::Done);
            }
            // A preStop hook that makes its container end has done its work,
            // also when it goes down with it. Upstream calls that a failure.
            if hook == Hook::PreStop && output.code == KILLED && has_ended(ports, subject, id).await {
                return Ok(Outcome::Done);
            }
            let command = command.join(" ");
            Err(failed(format!(
                "command '{command}' exited with {}: {text}, message: {text:?}",
                output.code
            )))
        }
        Handler::HttpGet {
            host,
            port,
            path,
            https,
            headers,
        } => {
            let host = handler::host(ports, &subject.uid, host.as_deref()).map_err(failed)?;
            let page = Page {
                host: &host,
                port: port.clone().map_err(failed)?,
                path,
                https: *https,
                headers,
                user_agent: USER_AGENT,
            };
            match redirect::follow(&page).await {
                Ok(_) => Ok(Outcome::Done),
                Err(FollowError::Page {
                    first: true,
                    error: PageError::Plain,
                    ..
                }) => {
                    let plain = Page { https: false, ..page };
                    let address = plain.address();
                    let answer = redirect::follow(&plain).await;
                    answer
                        .map(|_| Outcome::FellBackToHttp { address })
                        .map_err(|_| failed(format!("Get \"{}\": {}", page.url(), PageError::Plain)))
                }
                Err(error) => Err(failed(error.to_string())),
            }
        }
        Handler::TcpSocket { host, port } => {
            let host = handler::host(ports, &subject.uid, host.as_deref()).map_err(failed)?;
            handler::dial(&host, port.clone().map_err(failed)?)
                .await
                .map(|_| Outcome::Done)
                .map_err(failed)
        }
        Handler::Grpc { .. } => Err(failed("a hook cannot ask over gRPC".to_owned())),
        Handler::Sleep { time } => {
            tokio::time::sleep(*time).await;
            Ok(Outcome::Done)
        }
    }
}

//! Runs one lifecycle hook.
//!
//! Source: upstream `lifecycle/handlers.go`.

use std::time::Duration;

use api::node::ContainerId;
use lifecycle::{Failure, FailureClass, Handler, Outcome};

use crate::execute::{Ports, Subject};
use crate::handler::{self, Page, PageError};
use crate::redirect::{self, FollowError};

const USER_AGENT: &str = "kube-lifecycle/1.33";

/// Runs a hook of one attempt of `container`. Within `limit`, which the caller
/// keeps; a command is killed by it.
pub(crate) async fn run(
    ports: &Ports,
    subject: &Subject,
    container: &str,
    id: &ContainerId,
    hook: &Handler,
    limit: Duration,
) -> Result<Outcome, Failure> {
    let failed = |message: String| Failure::new(FailureClass::Hook, message);
    match hook {
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

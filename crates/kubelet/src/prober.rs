//! Makes one attempt of a probe. When, and what comes of it, the machine says.
//!
//! Source: upstream `prober/prober.go`, `pkg/probe/{exec,http,tcp}`.

use std::time::Duration;

use api::node::ContainerId;
use lifecycle::{Handler, Probed};
use tokio::time::timeout;

use crate::execute::{Ports, Subject};
use crate::grpc;
use crate::handler::{self, OUTPUT_MAX_BYTES, Page};
use crate::redirect::{self, Followed};

const USER_AGENT: &str = "kube-probe/1.33";
/// What cannot be attempted is tried so often. Source: upstream
/// `maxProbeRetries`.
const TRIES: u32 = 3;

/// Probes one attempt of `container`. An error is not a failure: it is tried
/// again at once, and counts neither way.
pub(crate) async fn run(ports: &Ports, subject: &Subject, container: &str, id: &ContainerId, probe: &Handler, limit: Duration) -> Probed {
    let mut probed = once(ports, subject, container, id, probe, limit).await;
    for _ in 1..TRIES {
        if !matches!(probed, Probed::Error(_)) {
            break;
        }
        probed = once(ports, subject, container, id, probe, limit).await;
    }
    probed
}

async fn once(ports: &Ports, subject: &Subject, container: &str, id: &ContainerId, probe: &Handler, limit: Duration) -> Probed {
    match probe {
        Handler::Exec { command } => match handler::exec(ports, subject, container, id, command, limit).await {
            Ok(output) if output.timed_out => Probed::Failure(format!("command {:?} timed out", command.join(" "))),
            Ok(output) if output.code == 0 => Probed::Success,
            Ok(output) => {
                let start = &output.output[..output.output.len().min(OUTPUT_MAX_BYTES)];
                Probed::Failure(String::from_utf8_lossy(start).into_owned())
            }
            Err(error) => Probed::Error(error.to_string()),
        },
        Handler::HttpGet {
            host,
            port,
            path,
            https,
            headers,
        } => {
            let (host, port) = match (handler::host(ports, &subject.uid, host.as_deref()), port) {
                (Ok(host), Ok(port)) => (host, *port),
                (Err(error), _) => return Probed::Error(error),
                (_, Err(error)) => return Probed::Error(error.clone()),
            };
            let page = Page {
                host: &host,
                port,
                path,
                https: *https,
                headers,
                user_agent: USER_AGENT,
            };
            http(&page, limit).await
        }
        Handler::TcpSocket { host, port } => {
            let (host, port) = match (handler::host(ports, &subject.uid, host.as_deref()), port) {
                (Ok(host), Ok(port)) => (host, *port),
                (Err(error), _) => return Probed::Error(error),
                (_, Err(error)) => return Probed::Error(error.clone()),
            };
            tcp(&host, port, limit).await
        }
        Handler::Grpc { port, service } => {
            let host = match handler::host(ports, &subject.uid, None) {
                Ok(host) => host,
                Err(error) => return Probed::Error(error),
            };
            grpc::check(&host, *port, service, limit, USER_AGENT).await
        }
        Handler::Sleep { .. } => Probed::Error("a probe cannot sleep".to_owned()),
    }
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Probed {
    match timeout(limit, handler::dial(host, port)).await {
        Ok(Ok(_)) => Probed::Success,
        Ok(Err(error)) => Probed::Failure(error),
        Err(_) => Probed::Failure(format!("dial tcp {}: i/o timeout", handler::address(host, port))),
    }
}

/// Follows redirects to the same host, all within one limit.
async fn http(first: &Page<'_>, limit: Duration) -> Probed {
    match timeout(limit, redirect::follow(first)).await {
        Ok(Ok(Followed { answer, elsewhere: true })) => Probed::Warning(answer.body),
        Ok(Ok(Followed { answer, .. })) => match answer.status.as_u16() {
            200..300 => Probed::Success,
            300..400 => Probed::Warning(answer.body),
            status => Probed::Failure(format!("HTTP probe failed with statuscode: {status}")),
        },
        Ok(Err(failed)) => Probed::Failure(failed.to_string()),
        Err(_) => Probed::Failure(format!(
            "Get \"{}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            first.url()
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Answers each connection with the next text, and keeps what was asked.
    async fn server(answers: Vec<String>) -> (u16, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).await.unwrap() == 0 {
                        break;
                    }
                    request.push(byte[0]);
                }
                heard.lock().unwrap().push(String::from_utf8_lossy(&request).to_lowercase());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (port, asked)
    }

    fn answer(status: &str, more: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{more}content-length: 2\r\n\r\nhi")
    }

    fn page<'a>(port: u16, path: &'a str, headers: &'a [(String, String)]) -> Page<'a> {
        Page {
            host: "127.0.0.1",
            port,
            path,
            https: false,
            headers,
            user_agent: USER_AGENT,
        }
    }

    #[tokio::test]
    async fn codes_decide_as_the_table_says() {
        let rows = [
            ("200 OK", Probed::Success),
            ("204 No Content", Probed::Success),
            ("304 Not Modified", Probed::Warning(String::new())),
            (
                "404 Not Found",
                Probed::Failure("HTTP probe failed with statuscode: 404".to_owned()),
            ),
            ("500 Oops", Probed::Failure("HTTP probe failed with statuscode: 500".to_owned())),
        ];
        for (status, expected) in rows {
            let (port, asked) = server(vec![answer(status, "")]).await;
            assert_eq!(http(&page(port, "/x?y=1", &[]), LIMIT).await, expected, "{status}");
            let asked = asked.lock().unwrap()[0].clone();
            assert!(asked.starts_with("get /x?y=1 http/1.1\r\n"), "{asked}");
            for header in [
                "user-agent: kube-probe/1.33\r\n".to_owned(),
                "accept: */*\r\n".to_owned(),
                format!("host: 127.0.0.1:{port}\r\n"),
                "connection: close\r\n".to_owned(),
            ] {
                assert!(asked.contains(&header), "{header} in {asked}");
            }
        }
    }

    #[tokio::test]
    async fn headers_replace_the_defaults() {
        let headers =
            [("Host", "a.example"), ("User-Agent", "me"), ("Accept", ""), ("X-A", "1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        let (port, asked) = server(vec![answer("200 OK", "")]).await;
        assert_eq!(http(&page(port, "/", &headers), LIMIT).await, Probed::Success);
        let asked = asked.lock().unwrap()[0].clone();
        assert!(
            asked.contains("host: a.example\r\n") && asked.contains("user-agent: me\r\n") && asked.contains("x-a: 1\r\n"),
            "{asked}"
        );
        assert!(!asked.contains("accept"), "{asked}");
    }

    #[tokio::test]
    async fn redirects_are_followed_on_the_same_host_only() {
        let (port, asked) = server(vec![answer("302 Found", "location: /there\r\n"), answer("200 OK", "")]).await;
        assert_eq!(http(&page(port, "/", &[]), LIMIT).await, Probed::Success);
        assert!(asked.lock().unwrap()[1].starts_with("get /there "));
        let (port, _) = server(vec![answer("302 Found", "location: http://other.example/\r\n")]).await;
        assert_eq!(http(&page(port, "/", &[]), LIMIT).await, Probed::Warning("hi".to_owned()));
        let (port, asked) = server(vec![answer("302 Found", "location: /\r\n"); 20]).await;
        let expected = "Get \"/\": stopped after 10 redirects";
        assert_eq!(http(&page(port, "/", &[]), LIMIT).await, Probed::Failure(expected.to_owned()));
        assert_eq!(asked.lock().unwrap().len(), 11);
    }

    #[tokio::test]
    async fn what_does_not_answer_fails_in_the_words_users_search_for() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port, LIMIT).await, Probed::Success);
        // It accepts in the kernel and never answers.
        let expected =
            format!("Get \"http://127.0.0.1:{port}/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)");
        let short = Duration::from_millis(50);
        assert_eq!(http(&page(port, "/", &[]), short).await, Probed::Failure(expected));
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(tcp("127.0.0.1", port, LIMIT).await, Probed::Failure(refused.clone()));
        let expected = format!("Get \"http://127.0.0.1:{port}/x\": {refused}");
        assert_eq!(http(&page(port, "/x", &[]), LIMIT).await, Probed::Failure(expected));
        let (port, _) = server(vec![String::new()]).await;
        let expected = format!("Get \"http://127.0.0.1:{port}/\": EOF");
        assert_eq!(http(&page(port, "/", &[]), LIMIT).await, Probed::Failure(expected));
    }

    #[tokio::test]
    async fn https_of_a_plain_server_is_told_apart() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 64];
            let _ = stream.read(&mut hello).await;
            stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await.unwrap();
        });
        let secure = Page {
            https: true,
            ..page(port, "/", &[])
        };
        let expected = format!("Get \"https://127.0.0.1:{port}/\": http: server gave HTTP response to HTTPS client");
        assert_eq!(http(&secure, LIMIT).await, Probed::Failure(expected));
    }
}

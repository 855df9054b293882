//! Which protocol a client asks for, and the answer that switches to it. Pure.
//!
//! Source: upstream `apimachinery/pkg/util/httpstream/{httpstream,wsstream}`,
//! `kubelet/pkg/cri/streaming`.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::messages::Form;
use super::websocket;

/// What a client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A command or an attachment.
    Remote,
    /// Forwarded ports.
    Forward,
}

/// The protocol that was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// Numbered channels in WebSocket messages.
    WebSocket {
        /// Name of the subprotocol; empty when the client named none.
        protocol: &'static str,
    },
    /// SPDY on the connection itself.
    Spdy {
        /// Name of the stream protocol.
        protocol: &'static str,
    },
    /// SPDY within the binary messages of a WebSocket.
    Tunnel,
}

const WEBSOCKET_REMOTE: [&str; 6] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
];
const WEBSOCKET_FORWARD: [&str; 3] = ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""];
const SPDY_REMOTE: [&str; 3] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
const SPDY_FORWARD: [&str; 1] = ["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

impl Upgrade {
    /// Whether the end is told as a `metav1.Status` instead of as text.
    pub(crate) fn tells_status(&self) -> bool {
        matches!(
            self,
            Self::WebSocket {
                protocol: "v4.channel.k8s.io" | "v4.base64.channel.k8s.io" | "v5.channel.k8s.io"
            } | Self::Spdy {
                protocol: "v4.channel.k8s.io"
            }
        )
    }

    /// How messages with numbered channels are written.
    pub(super) fn form(&self) -> Form {
        match self {
            Self::WebSocket { protocol } => Form::of(protocol),
            Self::Spdy { .. } | Self::Tunnel => Form::Binary,
        }
    }
}

/// Every value of a header, split at commas.
fn values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

fn first_common(asked: &[&str], known: &[&'static str]) -> Option<&'static str> {
    asked.iter().find_map(|asked| known.iter().copied().find(|known| known == asked))
}

/// What was agreed on, and the answer that says so.
///
/// # Errors
/// The refusal, for people.
pub(crate) fn negotiate(headers: &HeaderMap, purpose: Purpose) -> Result<(Upgrade, http::response::Builder), (StatusCode, String)> {
    let upgrading = values(headers, "connection").any(|value| value.eq_ignore_ascii_case("upgrade"));
    let to = |name: &str| upgrading && values(headers, "upgrade").any(|value| value.eq_ignore_ascii_case(name));
    let switching = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade");
    if to("websocket") {
        let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()) else {
            return Err((
                StatusCode::BAD_REQUEST,
                "unable to upgrade: the Sec-WebSocket-Key header is missing".to_owned(),
            ));
        };
        if values(headers, "sec-websocket-version").next() != Some("13") {
            return Err((
                StatusCode::BAD_REQUEST,
                "unable to upgrade: only WebSocket version 13 is supported".to_owned(),
            ));
        }
        let (upgrade, protocol) = websocket_protocol(headers, purpose)?;
        let mut answer = switching
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_ACCEPT, websocket::accept(key));
        if !protocol.is_empty() {
            answer = answer.header(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        return Ok((upgrade, answer));
    }
    if to(SPDY) {
        let known: &[&'static str] = if purpose == Purpose::Remote { &SPDY_REMOTE } else { &SPDY_FORWARD };
        let asked: Vec<&str> = values(headers, STREAM_PROTOCOL).collect();
        let protocol = first_common(&asked, known).ok_or_else(|| {
            let message = format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                asked.join(" "),
                known.join(" ")
            );
            (StatusCode::FORBIDDEN, message)
        })?;
        let answer = switching
            .header(header::UPGRADE, SPDY)
            .header(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        return Ok((Upgrade::Spdy { protocol }, answer));
    }
    Err((
        StatusCode::BAD_REQUEST,
        "unable to upgrade: missing upgrade headers in request; a WebSocket or SPDY/3.1 client is needed".to_owned(),
    ))
}

fn websocket_protocol(headers: &HeaderMap, purpose: Purpose) -> Result<(Upgrade, &'static str), (StatusCode, String)> {
    let asked: Vec<&str> = values(headers, "sec-websocket-protocol").collect();
    if purpose == Purpose::Forward && asked.contains(&TUNNEL) {
        return Ok((Upgrade::Tunnel, TUNNEL));
    }
    let known: &[&'static str] = if purpose == Purpose::Remote {
        &WEBSOCKET_REMOTE
    } else {
        &WEBSOCKET_FORWARD
    };
    let protocol = if asked.is_empty() { Some("") } else { first_common(&asked, known) };
    match protocol {
        Some(protocol) => Ok((Upgrade::WebSocket { protocol }, protocol)),
        None => Err((
            StatusCode::BAD_REQUEST,
            format!(
                "requested protocol(s) are not supported: [{}]; supports [{}]",
                asked.join(" "),
                known.join(" ").trim_end()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[(&str, &str)], purpose: Purpose) -> Result<Upgrade, (u16, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<http::HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        negotiate(&headers, purpose)
            .map(|(upgrade, _)| upgrade)
            .map_err(|(code, text)| (code.as_u16(), text))
    }

    const WEBSOCKET: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ];

    #[test]
    fn clients_get_the_protocol_they_name_first() {
        let with = |more: &[(&'static str, &'static str)]| [&WEBSOCKET, more].concat();
        let websocket = |protocol| Ok(Upgrade::WebSocket { protocol });
        let remote = |lines: &[(&str, &str)]| asked(lines, Purpose::Remote);
        assert_eq!(
            remote(&with(&[("sec-websocket-protocol", "v5.channel.k8s.io")])),
            websocket("v5.channel.k8s.io")
        );
        assert_eq!(
            remote(&with(&[("sec-websocket-protocol", "v9.channel.k8s.io, v4.channel.k8s.io")])),
            websocket("v4.channel.k8s.io")
        );
        assert_eq!(remote(&WEBSOCKET), websocket(""));
        let base64 = remote(&with(&[("sec-websocket-protocol", "base64.channel.k8s.io")])).unwrap();
        assert_eq!((base64.form(), base64.tells_status()), (Form::Base64, false));
        let base64 = remote(&with(&[("sec-websocket-protocol", "v4.base64.channel.k8s.io")])).unwrap();
        assert_eq!((base64.form(), base64.tells_status()), (Form::Base64, true));
        assert_eq!(
            asked(&with(&[("sec-websocket-protocol", TUNNEL)]), Purpose::Forward),
            Ok(Upgrade::Tunnel)
        );
        let spdy = [
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "v3.channel.k8s.io"),
        ];
        assert_eq!(
            remote(&spdy),
            Ok(Upgrade::Spdy {
                protocol: "v4.channel.k8s.io"
            })
        );
        let (code, text) = asked(&spdy, Purpose::Forward).unwrap_err();
        assert_eq!(code, 403);
        assert_eq!(
            text,
            "unable to upgrade: unable to negotiate protocol: client supports [v4.channel.k8s.io v3.channel.k8s.io], server accepts [portforward.k8s.io]"
        );
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let refused = |lines: &[(&str, &str)]| asked(lines, Purpose::Remote).unwrap_err();
        assert!(refused(&[]).1.contains("missing upgrade headers"));
        assert!(
            refused(&WEBSOCKET[1..]).1.contains("missing upgrade headers"),
            "no Connection header"
        );
        assert!(refused(&[WEBSOCKET[0], WEBSOCKET[1], WEBSOCKET[3]]).1.contains("Sec-WebSocket-Key"));
        let unknown = [&WEBSOCKET[..], &[("sec-websocket-protocol", "v9.channel.k8s.io")]].concat();
        assert_eq!(
            refused(&unknown).1,
            "requested protocol(s) are not supported: [v9.channel.k8s.io]; supports [v5.channel.k8s.io v4.channel.k8s.io v4.base64.channel.k8s.io channel.k8s.io base64.channel.k8s.io]"
        );
    }
}

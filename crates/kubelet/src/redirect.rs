//! Pages that say they are elsewhere. Followed on the same host alone, by
//! probes and by hooks.
//!
//! Source: upstream `pkg/probe/http`, `RedirectChecker`; Go `net/http`.

use http::Uri;

use crate::handler::{self, Answer, Page, PageError};

/// Redirects followed. Source: Go `net/http`, `defaultCheckRedirect`.
const REDIRECTS_MAX: usize = 10;

/// The last answer of a chain.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) answer: Answer,
    /// It leads to another host, and was not followed.
    pub(crate) elsewhere: bool,
}

/// A chain that led nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// A page of it could not be had.
    #[error("Get \"{url}\": {error}")]
    Page {
        url: String,
        /// Of the first page.
        first: bool,
        error: PageError,
    },
    /// It does not end.
    #[error("Get \"{0}\": stopped after {REDIRECTS_MAX} redirects")]
    TooMany(String),
}

/// GETs a page, and where it leads.
pub(crate) async fn follow(first: &Page<'_>) -> Result<Followed, FollowError> {
    let (mut port, mut path, mut https) = (first.port, first.path.to_owned(), first.https);
    for hops in 0..=REDIRECTS_MAX {
        let page = Page {
            port,
            path: &path,
            https,
            ..first.clone()
        };
        let answer = handler::get(&page).await.map_err(|error| FollowError::Page {
            url: page.url(),
            first: hops == 0,
            error,
        })?;
        let redirects = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let next = answer.location.as_deref().filter(|_| redirects).map(|to| resolve(&page, to));
        match next {
            Some(Some(next)) => (port, path, https) = next,
            Some(None) => return Ok(Followed { answer, elsewhere: true }),
            None => return Ok(Followed { answer, elsewhere: false }),
        }
    }
    Err(FollowError::TooMany(path))
}

/// Where a redirect leads: port, path and whether over TLS; `None` when to
/// another host.
fn resolve(page: &Page<'_>, location: &str) -> Option<(u16, String, bool)> {
    if let Some(rest) = location.strip_prefix("//") {
        let scheme = if page.https { "https" } else { "http" };
        return resolve(page, &format!("{scheme}://{rest}"));
    }
    if location.starts_with('/') {
        return Some((page.port, without_fragment(location), page.https));
    }
    if !location.contains("://") {
        let base = page.path.split('?').next().unwrap_or("/");
        let dir = base.rsplit_once('/').map_or("", |(dir, _)| dir);
        return Some((page.port, without_fragment(&format!("{dir}/{location}")), page.https));
    }
    let uri: Uri = without_fragment(location).parse().ok()?;
    let https = uri.scheme_str() == Some("https");
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let same = host.eq_ignore_ascii_case(page.host);
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    same.then(|| (uri.port_u16().unwrap_or(if https { 443 } else { 80 }), path, https))
}

fn without_fragment(location: &str) -> String {
    location.split('#').next().unwrap_or_default().to_owned()
}

//! What the query of a list or watch may say.
//!
//! Source: upstream `apimachinery/pkg/apis/meta/internalversion/validation`,
//! `ValidateListOptions`; the table of "API concepts", "Resource versions".

use api::Status;
use api::status::Violation;

use crate::call::invalid_option;
use crate::request::Query;

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";
const MATCH: &str = "resourceVersionMatch";

/// How fresh a list must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Everything acknowledged before the request.
    Newest,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// This revision.
    Exact(u64),
}

/// A `resourceVersion`.
///
/// # Errors
/// 422 for what is no number.
pub(crate) fn revision(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        invalid_option("ListOptions", Violation::invalid("resourceVersion", &text.into(), &why))
    })
}

/// Objects of a page; `None` is all of them.
///
/// # Errors
/// 400 for what is no number.
pub(crate) fn limit(query: &Query) -> Result<Option<usize>, Status> {
    // Less than one is no limit.
    Ok(query
        .integer("limit")?
        .filter(|limit| *limit > 0)
        .and_then(|limit| usize::try_from(limit).ok()))
}

/// What `resourceVersion` and `resourceVersionMatch` of a list ask for.
///
/// # Errors
/// 400 for numbers that are none, 422 for options that contradict each other.
pub(crate) fn freshness(query: &Query) -> Result<Freshness, Status> {
    // A list has no use for it; upstream reads all options before it asks what for.
    query.integer("timeoutSeconds")?;
    let (version, matching) = (query.get("resourceVersion"), query.get(MATCH));
    let mut broken = Vec::new();
    if let Some(matching) = matching {
        if version.is_none() {
            broken.push(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if query.get("continue").is_some() {
            broken.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        if !matches!(matching, EXACT | NOT_OLDER_THAN) {
            broken.push(Violation::not_supported(MATCH, matching, &[EXACT, NOT_OLDER_THAN, ""]));
        }
        if matching == EXACT && version == Some("0") {
            broken.push(forbidden("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""));
        }
    }
    if query.boolean("sendInitialEvents").is_some() {
        broken.push(Violation::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    refuse(&broken)?;
    let limited = limit(query)?.is_some();
    Ok(match (version.map(revision).transpose()?, matching) {
        (None, _) => Freshness::Newest,
        (Some(0), _) => Freshness::Any,
        (Some(at), Some(EXACT)) => Freshness::Exact(at),
        // With a limit, a bare revision is meant exactly.
        (Some(at), None) if limited => Freshness::Exact(at),
        (Some(at), _) => Freshness::NotOlderThan(at),
    })
}

/// Whether a watch begins with the objects that are there; `None` when the
/// query does not say.
///
/// # Errors
/// 422 for options that contradict each other.
pub(crate) fn initial_events(query: &Query) -> Result<Option<bool>, Status> {
    let (initial, matching) = (query.boolean("sendInitialEvents"), query.get(MATCH));
    let mut broken = Vec::new();
    if initial.is_some() && matching != Some(NOT_OLDER_THAN) {
        broken.push(forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if let Some(matching) = matching {
        if initial.is_none() {
            broken.push(forbidden(
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
        if matching != NOT_OLDER_THAN {
            broken.push(Violation::not_supported(MATCH, matching, &[NOT_OLDER_THAN]));
        }
        if query.get("continue").is_some() {
            broken.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    refuse(&broken)?;
    Ok(initial)
}

fn forbidden(why: &str) -> Violation {
    Violation::forbidden(MATCH, why)
}

fn refuse(broken: &[Violation]) -> Result<(), Status> {
    if broken.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(
            &api::ResourceId::new("meta.k8s.io", "v1", "ListOptions", ""),
            "",
            broken,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str) -> Result<Freshness, String> {
        freshness(&Query::parse(query).unwrap()).map_err(|status| status.message)
    }

    #[test]
    fn a_list_is_as_fresh_as_the_table_says() {
        let table = [
            ("", Freshness::Newest),
            ("limit=5", Freshness::Newest),
            ("resourceVersion=", Freshness::Newest),
            ("resourceVersion=0", Freshness::Any),
            ("resourceVersion=0&limit=5", Freshness::Any),
            ("resourceVersion=0&resourceVersionMatch=NotOlderThan", Freshness::Any),
            ("resourceVersion=7", Freshness::NotOlderThan(7)),
            ("resourceVersion=7&limit=0", Freshness::NotOlderThan(7)),
            ("resourceVersion=7&limit=-1", Freshness::NotOlderThan(7)),
            ("resourceVersion=7&limit=5", Freshness::Exact(7)),
            (
                "resourceVersion=7&limit=5&resourceVersionMatch=NotOlderThan",
                Freshness::NotOlderThan(7),
            ),
            ("resourceVersion=7&resourceVersionMatch=Exact", Freshness::Exact(7)),
        ];
        for (query, wanted) in table {
            assert_eq!(list(query).unwrap(), wanted, "{query}");
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_refused_together() {
        let table = [
            (
                "resourceVersionMatch=Exact",
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "resourceVersion=0&resourceVersionMatch=Exact",
                "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                "resourceVersion=1&resourceVersionMatch=Newest",
                "resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
            (
                "sendInitialEvents=true",
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ),
            (
                "resourceVersion=x",
                "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax",
            ),
            (
                "continue=c&resourceVersionMatch=Exact",
                "[resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided, \
                 resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided]",
            ),
        ];
        for (query, wanted) in table {
            let message = list(query).unwrap_err();
            assert_eq!(message, format!("ListOptions.meta.k8s.io \"\" is invalid: {wanted}"), "{query}");
        }
        assert_eq!(
            list("timeoutSeconds=x").unwrap_err(),
            "strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        let watch = |query: &str| initial_events(&Query::parse(query).unwrap()).map_err(|status| status.message);
        assert_eq!(
            watch("sendInitialEvents=true&resourceVersionMatch=NotOlderThan").unwrap(),
            Some(true)
        );
        assert_eq!(watch("sendInitialEvents=0&resourceVersionMatch=NotOlderThan").unwrap(), Some(false));
        assert_eq!(watch("").unwrap(), None);
        for (query, wanted) in [
            (
                "sendInitialEvents=true",
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                "resourceVersionMatch=NotOlderThan",
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
            (
                "sendInitialEvents=true&resourceVersionMatch=Exact",
                "[resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, \
                 resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"]",
            ),
        ] {
            let message = watch(query).unwrap_err();
            assert_eq!(message, format!("ListOptions.meta.k8s.io \"\" is invalid: {wanted}"), "{query}");
        }
    }
}

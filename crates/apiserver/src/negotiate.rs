//! Content negotiation: which form of an answer a client wants.
//!
//! Source: Kubernetes "API concepts", "Resource representations" and
//! "Receiving resources as Tables"; RFC 9110, section 12.5.1.

use api::{Status, protobuf};
use http::{HeaderMap, header};

/// The form of an answer that shows objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The objects themselves.
    Whole,
    /// A `meta.k8s.io/v1` `Table`, as `kubectl get` prints.
    Table,
    /// `PartialObjectMetadata`: names, labels, annotations, owners.
    Metadata,
}

/// The media type of YAML. What is answered in it is written as JSON first.
pub(crate) const YAML: &str = "application/yaml";
/// What can be read, and answered, as a refusal lists it.
///
/// Source: upstream `apimachinery/pkg/runtime/serializer/codec_factory.go`.
pub(crate) const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Text, which everybody can read.
    Json,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What is shown of the objects.
    pub form: Form,
    /// How it is written.
    pub encoding: Encoding,
}

/// What can be answered.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The kind has a protobuf form.
    pub protobuf: bool,
    /// The answer is a stream of events.
    pub watch: bool,
    /// The kind has columns.
    pub table: bool,
}

impl Offer {
    /// The media types, as a refusal lists them. There are no streams of YAML.
    const fn names(self) -> &'static str {
        match (self.watch, self.protobuf) {
            (true, true) => "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
            (true, false) => "application/json;stream=watch",
            (false, true) => MEDIA_TYPES,
            (false, false) => "application/json, application/yaml",
        }
    }
}

/// The form of a discovery answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryForm {
    /// One document per group and version.
    Plain,
    /// Everything at once, `apidiscovery.k8s.io/v2`.
    AggregatedV2,
    /// The same under its older name, as clients before 1.30 ask for it.
    AggregatedV2Beta1,
}

/// One media range of an `Accept` header, parameters in lower case.
#[derive(Debug)]
struct Range<'a> {
    media: String,
    parameters: Vec<(String, &'a str)>,
    quality_milli: u32,
}

impl Range<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    fn is_json(&self) -> bool {
        matches!(self.media.as_str(), "application/json" | "application/*" | "*/*")
    }
}

fn ranges(accept: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = accept
        .split(',')
        .filter(|range| !range.trim().is_empty())
        .map(range)
        .filter(|range| range.quality_milli > 0)
        .collect();
    // Stable: equal weights stay in the client's order.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality_milli));
    ranges
}

fn range(text: &str) -> Range<'_> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    let mut quality_milli = 1_000;
    let mut parameters = Vec::new();
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
        if name == "q" {
            let quality = value.parse::<f32>().unwrap_or(0.0).clamp(0.0, 1.0);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to 1000 by the clamp
            let milli = (quality * 1_000.0) as u32;
            quality_milli = milli;
        } else {
            parameters.push((name, value));
        }
    }
    Range {
        media,
        parameters,
        quality_milli,
    }
}

/// The media types of an `Accept` header, most wanted first.
pub(crate) fn media_types(accept: &str) -> Vec<String> {
    ranges(accept).into_iter().map(|range| range.media).collect()
}

/// Whether JSON is among what a client takes. No header means anything.
pub(crate) fn accepts_json(headers: &HeaderMap) -> bool {
    accept(headers).is_none_or(|accept| ranges(accept).iter().any(Range::is_json))
}

/// The `Accept` header; an empty one counts as none.
pub(crate) fn accept(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::ACCEPT)?.to_str().ok()?;
    Some(value).filter(|value| !value.trim().is_empty())
}

fn not_acceptable(produced: &str) -> Status {
    Status::not_acceptable(format!("only the following media types are accepted: {produced}"))
}

/// What objects are answered in. No header means whole, as JSON.
///
/// # Errors
/// 406 when nothing the client accepts can be produced.
pub fn objects(accept: Option<&str>, offer: Offer) -> Result<Accepted, Status> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return Ok(Accepted {
            form: Form::Whole,
            encoding: Encoding::Json,
        });
    };
    let accepted = |range: &Range<'_>| {
        let encoding = match range.media.as_str() {
            _ if range.is_json() => Encoding::Json,
            YAML if !offer.watch => Encoding::Json,
            protobuf::MEDIA_TYPE if offer.protobuf => Encoding::Protobuf,
            _ => return None,
        };
        if range.parameter("stream").is_some_and(|stream| stream != "watch") {
            return None;
        }
        let meta = range.parameter("g") == Some("meta.k8s.io") && matches!(range.parameter("v"), Some("v1" | "v1beta1"));
        let form = match range.parameter("as") {
            None => Form::Whole,
            // A table has no protobuf form, upstream's neither.
            Some("Table") if meta && offer.table && encoding == Encoding::Json => Form::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if meta => Form::Metadata,
            Some(_) => return None,
        };
        Some(Accepted { form, encoding })
    };
    let ranges = ranges(accept);
    // Upstream takes the first that it knows, and only then asks for a stream.
    let known = |range: &&Range<'_>| range.media == YAML || accepted(range).is_some();
    let first = ranges.iter().find(known).and_then(accepted);
    first.ok_or_else(|| not_acceptable(offer.names()))
}

/// Whether a client would rather have another media type than JSON: how it gets
/// what is not an object of the resource it asked for, such as a status.
pub(crate) fn prefers(headers: &HeaderMap, media: &str) -> bool {
    let first = |accept: &str| {
        let known = |range: &&Range<'_>| range.is_json() || matches!(range.media.as_str(), YAML | protobuf::MEDIA_TYPE);
        ranges(accept).iter().find(known).map(|range| range.media == media)
    };
    accept(headers)
        .filter(|accept| accept.contains(media))
        .and_then(first)
        .unwrap_or(false)
}

/// The form `/api` and `/apis` are answered in.
///
/// # Errors
/// 406 as above.
pub fn discovery(accept: Option<&str>) -> Result<DiscoveryForm, Status> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else {
        return Ok(DiscoveryForm::Plain);
    };
    let form = |range: &Range<'_>| {
        if range.media == YAML && range.parameter("as").is_none() {
            return Some(DiscoveryForm::Plain);
        }
        if !range.is_json() {
            return None;
        }
        match (range.parameter("as"), range.parameter("g"), range.parameter("v")) {
            (None, ..) => Some(DiscoveryForm::Plain),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => Some(DiscoveryForm::AggregatedV2),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => Some(DiscoveryForm::AggregatedV2Beta1),
            _ => None,
        }
    };
    ranges(accept)
        .iter()
        .find_map(form)
        .ok_or_else(|| not_acceptable("application/json, application/yaml"))
}

/// The media type of a request body, without parameters, in lower case.
#[must_use]
pub fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_s_first_choice_that_exists_wins() {
        use Encoding::{Json, Protobuf};
        const PB: &str = "application/vnd.kubernetes.protobuf";
        const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
        const PARTIAL: &str = "as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        let table = [
            (None, Some((Form::Whole, Json))),
            (Some("application/json".to_owned()), Some((Form::Whole, Json))),
            (Some("*/*".to_owned()), Some((Form::Whole, Json))),
            (Some(format!("{PB},application/json")), Some((Form::Whole, Protobuf))),
            (Some(PB.to_owned()), Some((Form::Whole, Protobuf))),
            (Some(format!("{PB};stream=watch")), Some((Form::Whole, Protobuf))),
            (Some(format!("{PB};stream=other")), None),
            (Some(format!("{PB};q=0.5,application/json")), Some((Form::Whole, Json))),
            (Some(format!("{PB};{PARTIAL},application/json")), Some((Form::Metadata, Protobuf))),
            (
                Some(format!("{PB};as=Table;v=v1;g=meta.k8s.io,application/json")),
                Some((Form::Whole, Json)),
            ),
            (Some(format!("{TABLE},application/json")), Some((Form::Table, Json))),
            (
                Some("application/json;as=Table;v=v9;g=meta.k8s.io,application/json".to_owned()),
                Some((Form::Whole, Json)),
            ),
            (
                Some("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1".to_owned()),
                Some((Form::Metadata, Json)),
            ),
            (Some(format!("application/json;q=0.1, {TABLE}")), Some((Form::Table, Json))),
            (Some("application/json;q=0".to_owned()), None),
            (Some("application/yaml".to_owned()), Some((Form::Whole, Json))),
            (
                Some("application/yaml;as=Table;v=v1;g=meta.k8s.io".to_owned()),
                Some((Form::Table, Json)),
            ),
            (Some("text/html".to_owned()), None),
        ];
        for (accept, wanted) in table {
            let offer = Offer {
                protobuf: true,
                watch: false,
                table: true,
            };
            let got = objects(accept.as_deref(), offer)
                .ok()
                .map(|accepted| (accepted.form, accepted.encoding));
            assert_eq!(got, wanted, "{accept:?}");
        }
        let refusal = |protobuf, watch| {
            objects(
                Some("text/html"),
                Offer {
                    protobuf,
                    watch,
                    table: true,
                },
            )
            .unwrap_err()
            .message
        };
        assert_eq!(
            refusal(true, false),
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        );
        assert_eq!(
            refusal(true, true),
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        );
        assert_eq!(
            refusal(false, false),
            "only the following media types are accepted: application/json, application/yaml"
        );
    }

    #[test]
    fn discovery_is_aggregated_when_asked() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(discovery(Some(&format!("{v2},{v2beta1}"))).unwrap(), DiscoveryForm::AggregatedV2);
        assert_eq!(discovery(Some(v2beta1)).unwrap(), DiscoveryForm::AggregatedV2Beta1);
        assert_eq!(discovery(Some("application/json")).unwrap(), DiscoveryForm::Plain);
        assert_eq!(discovery(None).unwrap(), DiscoveryForm::Plain);
        assert_eq!(discovery(Some("application/yaml")).unwrap(), DiscoveryForm::Plain);
        let refused = discovery(Some("text/html")).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                406,
                "only the following media types are accepted: application/json, application/yaml"
            )
        );
        assert!(
            objects(
                Some(YAML),
                Offer {
                    protobuf: true,
                    watch: true,
                    table: true,
                }
            )
            .is_err(),
            "no stream is YAML"
        );
    }
}

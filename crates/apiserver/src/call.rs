//! One request for a resource, with everything its verb needs to know.

use std::sync::{Arc, Mutex, PoisonError};

use api::status::Violation;
use api::{Object, Scope, Status, Time};
use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use tokio_util::sync::CancellationToken;

use crate::authn::Identity;
use crate::body::{self, Body};
use crate::hub::Entry;
use crate::metrics::Permit;
use crate::negotiate::{self, Accepted, Encoding, Form, Offer};
use crate::registry::{Resource, Row, Subresource};
use crate::request::{Query, ResourceRequest, Verb};
use crate::respond;
use crate::server::Core;
use crate::table::{self, IncludeObject};

/// What of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status.
    Main,
    /// The status, and metadata.
    Status,
    /// `spec.finalizers` of a namespace.
    Finalize,
    /// The decision about a certificate signing request, and metadata.
    Approval,
    /// `spec.ephemeralContainers` of a pod.
    Ephemeral,
    /// What a pod's containers may use.
    Resize,
    /// What a binding sets; the subresource itself sees to that.
    Binding,
}

/// One request for a resource.
pub(crate) struct Call {
    pub(crate) core: Arc<Core>,
    pub(crate) identity: Identity,
    pub(crate) row: Arc<Row>,
    pub(crate) asked: ResourceRequest,
    pub(crate) query: Query,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) form: Form,
    /// How the answer is written.
    pub(crate) encoding: Encoding,
    pub(crate) include: IncludeObject,
    pub(crate) now: Time,
    pub(crate) warnings: Vec<String>,
    /// Counts the request as one being answered; streams keep it.
    pub(crate) permit: Option<Permit>,
    /// The client's connection, where it may change its protocol.
    pub(crate) upgrade: Option<hyper::upgrade::OnUpgrade>,
    /// Ends streams early, beside the server's own end.
    pub(crate) ends: Option<CancellationToken>,
    /// Taken by whoever reads it. A body is not `Sync`, and a call is shared
    /// with everything that works for it.
    body: Mutex<Option<Body>>,
}

/// 422 for an option of a request, in a kind such as `ListOptions`.
pub(crate) fn invalid_option(kind: &str, violation: Violation) -> Status {
    Status::invalid(&api::ResourceId::new("meta.k8s.io", "v1", kind, ""), "", &[violation])
}

impl Call {
    pub(crate) fn new(
        core: Arc<Core>,
        identity: Identity,
        row: Arc<Row>,
        asked: ResourceRequest,
        query: Query,
        request: Request<Body>,
    ) -> Result<Self, Status> {
        let (mut head, body) = request.into_parts();
        let in_namespace = !asked.namespace.is_empty() && asked.resource != "namespaces";
        let one = !asked.name.is_empty();
        match row.scope {
            Scope::Cluster if in_namespace => return Err(Status::no_such_path()),
            Scope::Namespaced if one && !in_namespace => return Err(Status::no_such_path()),
            _ => {}
        }
        // The log is text, whatever the client would accept beside it; what a
        // proxied server makes of the header is its own affair.
        let foreign = row
            .subresources
            .iter()
            .filter(|subresource| matches!(subresource, Subresource::Log | Subresource::Proxy) || subresource.is_stream())
            .any(|subresource| subresource.name() == asked.subresource);
        let accept = head.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let offer = Offer {
            protobuf: row.has_protobuf(),
            watch: asked.verb == Verb::Watch,
            // What is not kept has no columns.
            table: row.review.is_none(),
        };
        let Accepted { form, encoding } = negotiate::objects(accept.filter(|_| !foreign), offer)?;
        let include = IncludeObject::parse(query.get("includeObject").unwrap_or_default()).map_err(Status::bad_request)?;
        let now = (core.clock)();
        let ends = head.extensions.get::<CancellationToken>().cloned();
        Ok(Self {
            core,
            identity,
            row,
            asked,
            query,
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            form,
            encoding,
            include,
            now,
            warnings: Vec::new(),
            permit: None,
            upgrade: head.extensions.remove(),
            ends,
            body: Mutex::new(Some(body)),
        })
    }

    /// 405.
    pub(crate) fn wrong_method(&self) -> Status {
        Status::method_not_allowed("the server does not allow this method on the requested resource")
    }

    /// The namespace of the objects asked for; empty for cluster-wide ones.
    pub(crate) fn namespace(&self) -> &str {
        if self.row.scope == Scope::Namespaced {
            &self.asked.namespace
        } else {
            ""
        }
    }

    /// The store key of the object asked for.
    pub(crate) fn key(&self) -> String {
        self.row.key(self.namespace(), &self.asked.name)
    }

    /// The prefix of the keys of the collection asked for.
    pub(crate) fn prefix(&self) -> String {
        self.row.prefix(Some(self.namespace()).filter(|namespace| !namespace.is_empty()))
    }

    /// 404 for the object asked for.
    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.row.id, &self.asked.name)
    }

    /// What of the object the request may change.
    pub(crate) fn part(&self) -> Part {
        match self.asked.subresource.as_str() {
            "status" => Part::Status,
            "finalize" => Part::Finalize,
            "approval" => Part::Approval,
            "ephemeralcontainers" => Part::Ephemeral,
            "resize" => Part::Resize,
            "binding" => Part::Binding,
            _ => Part::Main,
        }
    }

    /// 422 for an option of the request.
    pub(crate) fn invalid_option(&self, violation: Violation) -> Status {
        let options = match self.asked.verb {
            Verb::Get | Verb::List | Verb::Watch => "ListOptions",
            Verb::Create => "CreateOptions",
            Verb::Update => "UpdateOptions",
            Verb::Patch => "PatchOptions",
            Verb::Delete | Verb::DeleteCollection | Verb::Other => "DeleteOptions",
        };
        invalid_option(options, violation)
    }

    /// Whether nothing is to be stored.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let asked: Vec<&str> = self.query.all("dryRun").filter(|value| !value.is_empty()).collect();
        if asked.iter().any(|value| *value != "All") {
            return Err(self.invalid_option(Violation::not_supported_list("dryRun", &asked, &["All"])));
        }
        Ok(!asked.is_empty())
    }

    /// Reads the request body.
    pub(crate) async fn read_body(&self) -> Result<bytes::Bytes, Status> {
        body::read(self.take_body(), self.core.limits.body_bytes).await
    }

    /// The request body, to be passed on; empty when it was taken before.
    pub(crate) fn take_body(&self) -> Body {
        let body = self.body.lock().unwrap_or_else(PoisonError::into_inner).take();
        body.unwrap_or_else(body::empty)
    }

    /// The media type of the body; empty when none is stated.
    pub(crate) fn content_type(&self) -> String {
        negotiate::media_type(
            self.headers
                .get(header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default(),
        )
    }

    /// Answers with a stored entry.
    pub(crate) fn entry(&self, code: StatusCode, entry: &Entry) -> Response<Body> {
        if self.form == Form::Whole && self.encoding == Encoding::Json && self.row.convert.is_none() {
            let mut text = BytesMut::new();
            respond::splice(&entry.stored, entry.revision, &mut text);
            let mut response = respond::bytes(code, text.freeze());
            respond::warn(&mut response, &self.warnings);
            return response;
        }
        self.object(code, &served(&self.row, &entry.object))
    }

    /// Answers with an object in the row's form.
    pub(crate) fn object(&self, code: StatusCode, object: &Object) -> Response<Body> {
        self.object_of(&self.row, code, object)
    }

    /// Answers with an object in another row's form.
    pub(crate) fn object_of(&self, row: &Resource, code: StatusCode, object: &Object) -> Response<Body> {
        let mut response = match (self.form, self.encoding) {
            (Form::Whole, Encoding::Json) => respond::json(code, object),
            (Form::Whole, Encoding::Protobuf) => respond::protobuf(code, api::protobuf::object(object)),
            (Form::Metadata, Encoding::Json) => respond::json(code, &partial(object)),
            (Form::Metadata, Encoding::Protobuf) => respond::protobuf(code, api::protobuf::partial(object)),
            (Form::Table, _) => respond::json(code, &table::single(row, object, self.include, true, self.now)),
        };
        respond::warn(&mut response, &self.warnings);
        response
    }
}

/// An object in the row's form.
pub(crate) fn served(row: &Resource, stored: &Arc<Object>) -> Arc<Object> {
    row.convert.map_or_else(
        || Arc::clone(stored),
        |convert| Arc::new(convert.from_stored(Object::clone(stored))),
    )
}

/// An object as `PartialObjectMetadata`.
pub(crate) fn partial(object: &Object) -> serde_json::Value {
    serde_json::json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata()})
}

//! The table of served resources, and the types of its rows.
//!
//! A resource is a row. Routes, discovery, validation, patching, printing and
//! watch all read that row; there are no per-kind handlers. Rows of built-in
//! kinds and rows made at run time do not differ: see [`rows`] and
//! [`crate::serving`].

mod ranges;
mod rows;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use api::schema::{Root, Schema};
use api::status::{Status, Violation};
use api::{Object, ResourceId, Scope, Time};
use serde_json::Value;

pub use self::ranges::{RangeError, Ranges};
pub use self::rows::{Registry, Row};

/// One served resource, owned data.
pub struct Resource {
    /// Group, version, kind, plural, singular.
    pub id: ResourceId,
    /// `po`, `ns`, ...
    pub short_names: Vec<String>,
    /// `all` for what `kubectl get all` lists.
    pub categories: Vec<String>,
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// Shape, patch rules and defaults of the kind.
    pub schema: Root,
    /// Where its objects live in the store: `/registry/<storage>/[NS/]NAME`.
    /// Rows that serve one storage in two groups share it.
    pub storage: Cow<'static, str>,
    /// Converts between this row's form and the stored one, where two rows
    /// share a storage; `None` when the stored form is this row's.
    pub convert: Option<&'static dyn Convert>,
    /// What the kind does differently.
    pub strategy: Arc<dyn Strategy>,
    /// Selectable fields beside `metadata.name` and `metadata.namespace`.
    pub fields: Vec<Field>,
    /// A field objects are looked up by inside the server, such as the node of
    /// a pod; the empty value is not looked up.
    pub indexed: Option<fn(&Object) -> &str>,
    /// What `kubectl get` prints.
    pub columns: Vec<Column>,
    /// Row conditions of the table form; empty for most kinds.
    pub row_conditions: fn(&Object) -> Vec<Value>,
    /// `status`, `binding`, `log`, ...
    pub subresources: Vec<Subresource>,
    /// How long an object lives after its last write; `None` is forever. Rows
    /// that share a storage state the same.
    pub ttl: Option<Duration>,
    /// What whoever asks for the row is warned of: what to use instead.
    pub deprecation: Option<Cow<'static, str>>,
    /// Objects of the row are questions: a create answers them, and nothing is
    /// stored. Such a row has no storage and no other verb.
    pub review: Option<Review>,
    /// Objects of the row are computed when they are asked for, and nothing is
    /// stored. Such a row has no storage and no other verbs than get and list.
    pub computed: Option<Computed>,
}

/// What is computed when it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Computed {
    /// What nodes use.
    NodeUsage,
    /// What pods use.
    PodUsage,
}

/// A question the server answers about itself.
///
/// Source: the API groups `authentication.k8s.io` and `authorization.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Review {
    /// Whose token is this?
    Token,
    /// May a subject do something?
    SubjectAccess,
    /// The same, within one namespace.
    LocalSubjectAccess,
    /// May the caller do something?
    SelfSubjectAccess,
    /// What may the caller do in a namespace?
    SelfSubjectRules,
    /// Who is the caller?
    SelfSubject,
}

/// A field a field selector may name.
pub struct Field {
    /// As written in the selector: `spec.nodeName`.
    pub name: Cow<'static, str>,
    /// Where its value comes from.
    pub value: FieldValue,
}

/// How the value of a selectable field comes from an object.
pub enum FieldValue {
    /// The text, number or truth at the path that is the field's name; the
    /// empty string when absent.
    AtName,
    /// A pure function of the object.
    Computed(fn(&Object) -> String),
}

impl Field {
    /// A field whose name is the path of its value.
    #[must_use]
    pub fn path(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            value: FieldValue::AtName,
        }
    }

    /// A field whose value is a function of the object.
    #[must_use]
    pub const fn computed(name: &'static str, value: fn(&Object) -> String) -> Self {
        Self {
            name: Cow::Borrowed(name),
            value: FieldValue::Computed(value),
        }
    }

    /// Its value in an object; absent fields are the empty string.
    #[must_use]
    pub fn of(&self, object: &Object) -> String {
        match self.value {
            FieldValue::Computed(value) => value(object),
            FieldValue::AtName => match object.at(&self.name) {
                Some(Value::String(text)) => text.clone(),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                _ => String::new(),
            },
        }
    }
}

/// A subresource of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: get, update, patch of the status alone.
    Status,
    /// `binding` of pods: create.
    Binding,
    /// `log` of pods: get, answered by the node.
    Log,
    /// `finalize` of namespaces: update.
    Finalize,
    /// `ephemeralcontainers` of pods: get, update, patch of
    /// `spec.ephemeralContainers` alone.
    EphemeralContainers,
    /// `resize` of pods: get, update, patch of what their containers may use.
    Resize,
    /// `proxy` of nodes and pods: any method, passed on.
    Proxy,
    /// `token` of service accounts: create.
    Token,
    /// `exec` of pods: a stream to a command.
    Exec,
    /// `attach` of pods: a stream to a container.
    Attach,
    /// `portforward` of pods: streams to ports.
    PortForward,
    /// `scale` of what is there in numbers: get, update, patch of how many.
    Scale,
    /// `approval` of certificate signing requests: get, update, patch of the
    /// conditions that decide.
    Approval,
    /// `eviction` of pods: create.
    Eviction,
}

impl Subresource {
    /// Whether its requests become streams.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Exec | Self::Attach | Self::PortForward)
    }

    /// Whether it is a part of the object, read and written like the whole.
    #[must_use]
    pub const fn is_part(self) -> bool {
        matches!(self, Self::Status | Self::EphemeralContainers | Self::Resize | Self::Approval)
    }

    /// The last part of its path.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Binding => "binding",
            Self::Log => "log",
            Self::Finalize => "finalize",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Proxy => "proxy",
            Self::Token => "token",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Scale => "scale",
            Self::Approval => "approval",
            Self::Eviction => "eviction",
        }
    }
}

/// Type of a table cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// `string`.
    Text,
    /// `string` with format `name`: what `-o name` and completion use.
    Name,
    /// `integer`.
    Integer,
    /// `boolean`.
    Boolean,
}

/// How a cell comes from an object.
pub enum CellValue {
    /// The value at a path such as `.spec.replicas`; `<none>` when absent.
    Path(Cow<'static, str>),
    /// A pure function of the object and the current time.
    Computed(fn(&Object, Time) -> Value),
}

/// A printer column.
pub struct Column {
    /// Upstream's header, such as `Nominated Node`.
    pub name: Cow<'static, str>,
    /// Type of the cell.
    pub cell: Cell,
    /// 0 is shown by default, 1 with `-o wide`.
    pub priority: u8,
    /// For `columnDefinitions`.
    pub description: Cow<'static, str>,
    /// Where the value comes from.
    pub value: CellValue,
}

impl Column {
    /// A column that shows the value at a path.
    #[must_use]
    pub fn path(name: impl Into<Cow<'static, str>>, cell: Cell, path: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            cell,
            priority: 0,
            description: Cow::Borrowed(""),
            value: CellValue::Path(path.into()),
        }
    }

    /// A column whose value is a function of the object and the current time.
    #[must_use]
    pub const fn computed(name: &'static str, cell: Cell, value: fn(&Object, Time) -> Value) -> Self {
        Self {
            name: Cow::Borrowed(name),
            cell,
            priority: 0,
            description: Cow::Borrowed(""),
            value: CellValue::Computed(value),
        }
    }

    /// The same, shown only with `-o wide`.
    #[must_use]
    pub const fn wide(mut self) -> Self {
        self.priority = 1;
        self
    }

    /// The same, with a description.
    #[must_use]
    pub fn described(mut self, description: impl Into<Cow<'static, str>>) -> Self {
        self.description = description.into();
        self
    }
}

/// A change on its way to the store.
pub enum Change<'a> {
    /// A new object; its status has not been cleared yet.
    Create {
        /// The object, to be amended.
        new: &'a mut Object,
    },
    /// A change of everything but the status.
    Update {
        /// The object, to be amended.
        new: &'a mut Object,
        /// As stored.
        old: &'a Object,
    },
    /// A change of the status alone.
    UpdateStatus {
        /// The object, to be amended.
        new: &'a mut Object,
        /// As stored.
        old: &'a Object,
    },
}

/// What validation is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// A new object.
    Create,
    /// A change of everything but the status.
    Update,
    /// A change of the status alone.
    UpdateStatus,
    /// A change of a pod's ephemeral containers alone.
    UpdateEphemeral,
    /// A change of what a pod's containers may use alone.
    UpdateResize,
    /// A decision about a certificate signing request.
    UpdateApproval,
}

/// Why [`Strategy::allocate`] gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unallocated {
    /// What the object asks for cannot be had: 422.
    Refused(Violation),
    /// There is nothing left to give; the text says of what. 500, as upstream:
    /// no field of the object is wrong.
    Exhausted(String),
}

/// What a kind may do differently. Every hook is pure and has a default.
pub trait Strategy: Send + Sync {
    /// Fills what the schema's defaults cannot state, on a decoded request.
    fn default(&self, _object: &mut Object) {}

    /// Clears what a client may not set, fills what the server owns.
    ///
    /// The caller has already filled or taken over `uid`,
    /// `creationTimestamp`, `generation`, and the deletion's fields, and, for
    /// kinds that have the subresource, kept `status` out of updates and
    /// everything but `status` out of status updates. On create it has not
    /// touched `status`. Kinds that count generations count here; the caller
    /// counts only the one of a graceful deletion.
    fn prepare(&self, _change: Change<'_>, _now: Time) {}

    /// Rules the schema cannot state. All violations, not just the first.
    /// Metadata is validated for every kind by the caller.
    fn validate(&self, _new: &Object, _old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        Vec::new()
    }

    /// Warnings for the `Warning` header on create and update.
    fn warnings(&self, _new: &Object, _old: Option<&Object>) -> Vec<String> {
        Vec::new()
    }

    /// Whether [`allocate`](Self::allocate) has something to do for this create
    /// or update. Asked after `prepare` and `validate`.
    fn allocates(&self, _new: &Object, _old: Option<&Object>) -> bool {
        false
    }

    /// Fills what must be unique among all objects of the row, such as the
    /// address of a Service. `existing` are all stored objects of the row, of
    /// every namespace. The caller commits the result only if nothing of the
    /// row was written since it read `existing`, and otherwise asks again;
    /// only for an object that [`allocates`](Self::allocates).
    ///
    /// # Errors
    /// When what was asked for is taken, or nothing is left.
    fn allocate(&self, _new: &mut Object, _existing: &[Arc<Object>], _ranges: &Ranges) -> Result<(), Unallocated> {
        Ok(())
    }

    /// Grace in seconds for a delete; `None` removes the object at once.
    fn grace(&self, _object: &Object, _asked_s: Option<i64>) -> Option<u64> {
        None
    }

    /// Whether dependents outlive an object whose delete does not say.
    fn orphans(&self) -> bool {
        false
    }

    /// Why an object of that name is never deleted; `None` for all others.
    fn keeps(&self, _name: &str) -> Option<&'static str> {
        None
    }

    /// Whether `name` may name an object of this kind; the error is upstream's
    /// text, such as `a lowercase RFC 1123 subdomain must ...`.
    ///
    /// # Errors
    /// The texts of the rules it breaks.
    fn check_name(&self, name: &str) -> Result<(), Vec<String>> {
        crate::validate::names::dns1123_subdomain(name)
    }
}

/// A kind that behaves as the schema says and no further.
pub struct Plain;

impl Strategy for Plain {}

/// Two forms of one stored object.
pub trait Convert: Sync {
    /// From the stored form to the row's.
    #[allow(clippy::wrong_self_convention)] // the receiver converts, it is not converted
    fn from_stored(&self, stored: Object) -> Object;
    /// From the row's form to the stored one.
    ///
    /// # Errors
    /// When the row's form cannot be stored.
    fn to_stored(&self, served: Object) -> Result<Object, Status>;
}

fn no_conditions(_: &Object) -> Vec<Value> {
    Vec::new()
}

impl Resource {
    /// A row with nothing special: namespaced, name and age columns.
    #[must_use]
    pub fn plain(id: ResourceId, storage: impl Into<Cow<'static, str>>, schema: impl Into<Root>) -> Self {
        Self {
            id,
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            schema: schema.into(),
            storage: storage.into(),
            convert: None,
            strategy: Arc::new(Plain),
            fields: Vec::new(),
            indexed: None,
            columns: vec![crate::table::name_column(), crate::table::age_column()],
            row_conditions: no_conditions,
            subresources: Vec::new(),
            ttl: None,
            deprecation: None,
            review: None,
            computed: None,
        }
    }

    /// Shape, patch rules and defaults of the kind.
    #[must_use]
    pub fn schema(&self) -> Schema<'_> {
        self.schema.schema()
    }

    /// Whether its objects have a protobuf form.
    #[must_use]
    pub fn has_protobuf(&self) -> bool {
        self.schema().is_built_in() && api::protobuf::knows(&self.id.types())
    }

    /// The store key of an object.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.scope {
            Scope::Namespaced => format!("/registry/{}/{namespace}/{name}", self.storage),
            Scope::Cluster => format!("/registry/{}/{name}", self.storage),
        }
    }

    /// The prefix of all keys of this row, or of one namespace of it.
    #[must_use]
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.scope == Scope::Namespaced => format!("/registry/{}/{namespace}/", self.storage),
            _ => format!("/registry/{}/", self.storage),
        }
    }

    /// Whether its objects are stored: those of others are answers.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.review.is_none() && self.computed.is_none()
    }

    /// Whether the row has this subresource.
    #[must_use]
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }
}

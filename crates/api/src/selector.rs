//! Label and field selectors.
//!
//! Texts of errors are upstream's, since clients show them.
//!
//! Source: API concepts, "labels and selectors"; upstream
//! `apimachinery/pkg/labels/selector.go` and `apimachinery/pkg/fields`.

mod field;
mod label_syntax;
mod lexer;
mod parser;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use field::{FieldOperator, FieldRequirement, FieldSelector, FieldSelectorError, escape};
pub use label_syntax::{label_key_errors, label_value_errors};

use crate::typed;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// A label selector: all of its requirements must hold. The default selects
/// everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Sorted by key.
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// One requirement of a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

/// How a [`Requirement`] looks at a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key=value`.
    Equals,
    /// `key==value`.
    DoubleEquals,
    /// `key!=value`; holds without the label too.
    NotEquals,
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`; holds without the label too.
    NotIn,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`: the label is an integer above it.
    GreaterThan,
    /// `key<1`: the label is an integer below it.
    LessThan,
}

/// A text or a typed selector that is none; the words are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Between two requirements.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// The offending token.
        found: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// Within a requirement.
    #[error("unable to parse requirement: {0}")]
    Requirement(RequirementError),
    /// In a typed selector.
    #[error(transparent)]
    Typed(RequirementError),
    /// A typed selector's operator.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

/// A requirement that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequirementError {
    /// A token that does not belong there.
    #[error("found '{found}', expected: {expected}")]
    Unexpected {
        /// The offending token.
        found: String,
        /// What would have been accepted.
        expected: &'static str,
    },
    /// `in` without a list.
    #[error("found '{found}' expected: '('")]
    NoList {
        /// The offending token.
        found: String,
    },
    /// Rules of keys and values that are broken: `<field>: Invalid value: ...`.
    #[error("{}", aggregate(.0))]
    Invalid(Vec<String>),
}

/// One as it is, several in brackets, as upstream prints error lists.
fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

impl Requirement {
    /// A requirement, checked.
    ///
    /// # Errors
    /// When the key or a value is no label, or the operator wants another
    /// number of values.
    pub fn new(key: &str, operator: Operator, values: BTreeSet<String>) -> Result<Self, RequirementError> {
        let mut errors = Vec::new();
        let keys = label_key_errors(key);
        if !keys.is_empty() {
            errors.push(format!("key: Invalid value: {key:?}: {}", keys.join("; ")));
        }
        let shown = || format!("[{}]", values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(","));
        let count = values.len();
        match operator {
            Operator::In | Operator::NotIn if count == 0 => {
                errors.push("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned());
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if count != 1 => {
                errors.push(format!(
                    "values: Invalid value: {}: exact-match compatibility requires one single value",
                    shown()
                ));
            }
            Operator::Exists | Operator::DoesNotExist if count != 0 => {
                errors.push(format!(
                    "values: Invalid value: {}: values set must be empty for exists and does not exist",
                    shown()
                ));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if count != 1 {
                    errors.push(format!(
                        "values: Invalid value: {}: for 'Gt', 'Lt' operators, exactly one value is required",
                        shown()
                    ));
                }
                for (index, value) in values.iter().enumerate().filter(|(_, v)| integer(v).is_none()) {
                    errors.push(format!(
                        "values[{index}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let wrong = label_value_errors(value);
            if !wrong.is_empty() {
                errors.push(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Self {
                key: key.to_owned(),
                operator,
                values,
            })
        } else {
            Err(RequirementError::Invalid(errors))
        }
    }

    /// The label it looks at.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it looks at it.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(String::as_str)
    }

    /// Whether it holds.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        let label = labels.get(&self.key);
        let bound = || self.values.first().and_then(|v| integer(v));
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => label.is_some_and(|l| self.values.contains(l)),
            Operator::NotEquals | Operator::NotIn => label.is_none_or(|l| !self.values.contains(l)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => label.and_then(|l| integer(l)).zip(bound()).is_some_and(|(l, bound)| l > bound),
            Operator::LessThan => label.and_then(|l| integer(l)).zip(bound()).is_some_and(|(l, bound)| l < bound),
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

impl Selector {
    /// Selects every object.
    #[must_use]
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// Objects for which all requirements hold.
    #[must_use]
    pub fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            requirements,
            nothing: false,
        }
    }

    /// Objects that carry all these labels, as a Service's `spec.selector`.
    ///
    /// # Errors
    /// When one of them is no label.
    pub fn of_labels<'l>(labels: impl IntoIterator<Item = (&'l String, &'l String)>) -> Result<Self, SelectorError> {
        let each = labels
            .into_iter()
            .map(|(key, value)| Requirement::new(key, Operator::Equals, BTreeSet::from([value.clone()])));
        Ok(Self::of(each.collect::<Result<_, _>>().map_err(SelectorError::Typed)?))
    }

    /// Whether it selects every object.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Its requirements, by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    /// The form of the query parameter `labelSelector`:
    /// `a=b,c!=d,e in (x,y),!f,g notin (z),h,i>1,i<2`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parser::parse(text).map(Self::of)
    }
}

impl TryFrom<&typed::LabelSelector> for Selector {
    type Error = SelectorError;

    /// An empty selector selects everything.
    ///
    /// Source: upstream `metav1.LabelSelectorAsSelector`.
    fn try_from(typed: &typed::LabelSelector) -> Result<Self, Self::Error> {
        let mut requirements = Self::of_labels(typed.match_labels.iter().flatten())?.requirements;
        for expression in typed.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = expression.values.iter().flatten().cloned().collect();
            requirements.push(Requirement::new(&expression.key, operator, values).map_err(SelectorError::Typed)?);
        }
        Ok(Self::of(requirements))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = || self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let key = &self.key;
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={}", values()),
            Operator::DoubleEquals => write!(f, "{key}=={}", values()),
            Operator::NotEquals => write!(f, "{key}!={}", values()),
            Operator::In => write!(f, "{key} in ({})", values()),
            Operator::NotIn => write!(f, "{key} notin ({})", values()),
            Operator::GreaterThan => write!(f, "{key}>{}", values()),
            Operator::LessThan => write!(f, "{key}<{}", values()),
        }
    }
}

impl fmt::Display for Selector {
    /// The form the query parameter has; nothing prints as the empty text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! Field selectors.

use std::fmt;
use std::str::FromStr;

/// A field selector: all of its requirements must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Sorted as upstream sorts them: by their text.
    pub requirements: Vec<FieldRequirement>,
}

/// One requirement of a [`FieldSelector`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// Path of the field: `status.phase`.
    pub field: String,
    /// How it is compared.
    pub operator: FieldOperator,
    /// What it is compared with.
    pub value: String,
}

/// How a [`FieldRequirement`] compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldOperator {
    /// `=` or `==`.
    Equals,
    /// `!=`.
    NotEquals,
}

/// A text that is no field selector; the words are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The term.
        term: String,
    },
    /// A backslash before anything but `\`, `,` and `=`.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A bare `=` in a value.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(u32),
}

impl FieldRequirement {
    /// Whether it holds for the field's value; absent fields are empty.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        (self.value == value) == (self.operator == FieldOperator::Equals)
    }
}

impl FieldSelector {
    /// Whether it holds, given the value of each field it names.
    pub fn matches(&self, mut value_of: impl FnMut(&str) -> String) -> bool {
        self.requirements.iter().all(|r| r.matches(&value_of(&r.field)))
    }

    /// The value a field must equal, if there is one.
    #[must_use]
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements
            .iter()
            .find(|r| r.field == field && r.operator == FieldOperator::Equals)
            .map(|r| r.value.as_str())
    }
}

impl FromStr for FieldSelector {
    type Err = FieldSelectorError;

    /// `metadata.name=x,status.phase!=Running`; `\` escapes `,`, `=` and `\`.
    fn from_str(selector: &str) -> Result<Self, Self::Err> {
        let mut terms = split(selector);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|t| !t.is_empty()) {
            let at = term.find('=').ok_or_else(|| FieldSelectorError::Term {
                selector: selector.to_owned(),
                term: term.to_owned(),
            })?;
            let (left, right) = (&term[..at], &term[at + 1..]);
            let (field, operator, value) = match (left.strip_suffix('!'), right.strip_prefix('=')) {
                (Some(field), _) => (field, FieldOperator::NotEquals, right),
                (None, Some(value)) => (left, FieldOperator::Equals, value),
                (None, None) => (left, FieldOperator::Equals, right),
            };
            requirements.push(FieldRequirement {
                field: field.to_owned(),
                operator,
                value: unescape(value)?,
            });
        }
        Ok(Self { requirements })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, FieldRequirement { field, operator, value }) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if *operator == FieldOperator::Equals { "=" } else { "!=" };
            write!(f, "{comma}{field}{operator}{}", escape(value))?;
        }
        Ok(())
    }
}

/// A value as it must be written in a field selector.
#[must_use]
pub fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Cuts at commas that are not escaped.
fn split(selector: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, c) in selector.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&selector[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&selector[start..]);
    terms
}

fn unescape(text: &str) -> Result<String, FieldSelectorError> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => value.push(c),
                Some(c) => return Err(FieldSelectorError::Escape(format!("\\{c}"))),
                None => return Err(FieldSelectorError::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(FieldSelectorError::Unescaped(u32::from(c))),
            c => value.push(c),
        }
    }
    Ok(value)
}

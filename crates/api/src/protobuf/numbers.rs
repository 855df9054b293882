//! The field numbers of the definitions of the schema table.
//!
//! The file is generated together with the schema table (`cargo xtask
//! schema`) and decoded at first use.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use crate::schema::{Schema, named};

const SOURCE: &str = include_str!("../schema/v1_33.numbers");

static NUMBERS: LazyLock<HashMap<Schema<'static>, Box<[Numbered]>>> = LazyLock::new(|| {
    // The file is generated, committed and decoded by this crate's tests.
    decode(SOURCE).expect("the committed field numbers decode: their test does it")
});

/// A field and where it is in the message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbered {
    /// Number of the message that holds it, for fields of structs that Go
    /// embeds; 0 is the object's own message.
    pub(super) holder: u32,
    /// Its number there.
    pub(super) number: u32,
    pub(super) schema: Schema<'static>,
    pub(super) name: &'static str,
    /// A zero was set, and is not just what an unset field is sent as.
    pub(super) keeps_zero: bool,
}

/// The fields of a message, by holder and number. Empty for schemas that are
/// no objects.
pub(super) fn of(schema: Schema<'static>) -> &'static [Numbered] {
    NUMBERS.get(&schema).map_or(&[], |fields| fields)
}

/// Why the table could not be decoded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NumbersError {
    #[error("definition {0} of the field numbers is not in the schema table")]
    Definition(&'static str),
    #[error("the schema table has no field for {field:?} of {definition}")]
    Field { definition: &'static str, field: &'static str },
    #[error("field {field:?} of {definition} has no readable number")]
    Number { definition: &'static str, field: &'static str },
}

pub(super) fn decode(source: &'static str) -> Result<HashMap<Schema<'static>, Box<[Numbered]>>, NumbersError> {
    let mut table = HashMap::new();
    for line in source.lines() {
        let mut words = line.split(' ');
        let definition = words.next().unwrap_or_default();
        let schema = named(definition).ok_or(NumbersError::Definition(definition))?;
        let required: HashSet<&str> = schema.required().iter().map(AsRef::as_ref).collect();
        let mut fields = Vec::new();
        for word in words {
            let error = || NumbersError::Number { definition, field: word };
            let (name, path) = word.split_once('=').ok_or_else(error)?;
            let pointer = path.ends_with('?');
            let (holder, number) = path
                .trim_end_matches('?')
                .rsplit_once('.')
                .unwrap_or(("0", path.trim_end_matches('?')));
            let declared = schema.field(name).ok_or(NumbersError::Field { definition, field: name })?;
            fields.push(Numbered {
                holder: holder.parse().map_err(|_| error())?,
                number: number.parse().map_err(|_| error())?,
                schema: declared.schema,
                name,
                keeps_zero: pointer || required.contains(name),
            });
        }
        fields.sort_unstable_by_key(|field| (field.holder, field.number));
        table.insert(schema, fields.into_boxed_slice());
    }
    Ok(table)
}

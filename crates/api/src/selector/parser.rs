//! The query-string form of a label selector.
//!
//! Source: upstream `labels.Parser`, whose grammar and leniency it follows:
//! `a in (,b)` holds the empty value, `a=` compares with it.

use std::collections::BTreeSet;

use super::lexer::{Lexer, Token};
use super::{Operator, Requirement, RequirementError, SelectorError, label_key_errors};

const BINARY: &str = "in, notin, =, ==, !=, gt, lt";

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser {
        tokens: Lexer::new(text).peekable(),
    };
    let mut requirements = Vec::new();
    loop {
        let (token, found) = parser.look();
        match token {
            Token::End => return Ok(requirements),
            Token::Identifier | Token::Not => requirements.push(parser.requirement().map_err(SelectorError::Requirement)?),
            _ => return Err(unexpected(found, "!, identifier, or 'end of string'")),
        }
        let (token, found) = parser.consume();
        match token {
            Token::End => return Ok(requirements),
            Token::Comma => {
                let (token, found) = parser.look();
                if !matches!(token, Token::Identifier | Token::Not) {
                    return Err(unexpected(found, "identifier after ','"));
                }
            }
            _ => return Err(unexpected(found, "',' or 'end of string'")),
        }
    }
}

fn unexpected(found: &str, expected: &'static str) -> SelectorError {
    SelectorError::Unexpected {
        found: found.to_owned(),
        expected,
    }
}

struct Parser<'t> {
    tokens: std::iter::Peekable<Lexer<'t>>,
}

type Scanned<'t> = (Token, &'t str);

/// Where a value may stand, `in` and `notin` are ordinary words.
fn as_value((token, text): Scanned<'_>) -> Scanned<'_> {
    let token = if matches!(token, Token::In | Token::NotIn) {
        Token::Identifier
    } else {
        token
    };
    (token, text)
}

impl<'t> Parser<'t> {
    fn look(&mut self) -> Scanned<'t> {
        as_value(self.tokens.peek().copied().unwrap_or((Token::End, "")))
    }

    fn consume_raw(&mut self) -> Scanned<'t> {
        self.tokens.next().unwrap_or((Token::End, ""))
    }

    fn consume(&mut self) -> Scanned<'t> {
        as_value(self.consume_raw())
    }

    fn requirement(&mut self) -> Result<Requirement, RequirementError> {
        let error = |found: &str, expected| RequirementError::Unexpected {
            found: found.to_owned(),
            expected,
        };
        let (mut token, mut key) = self.consume();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.consume();
        }
        if token != Token::Identifier {
            return Err(error(key, "identifier"));
        }
        let wrong = label_key_errors(key);
        if !wrong.is_empty() {
            // Upstream has no path here, and shows that.
            return Err(RequirementError::Invalid(vec![format!(
                "<nil>: Invalid value: {key:?}: {}",
                wrong.join("; ")
            )]));
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, BTreeSet::new());
        }
        let (token, found) = self.consume_raw();
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(error(found, BINARY)),
        };
        let values = if matches!(operator, Operator::In | Operator::NotIn) {
            self.list()?
        } else {
            self.exact()?
        };
        Requirement::new(key, operator, values)
    }

    /// One value; nothing stands for the empty one.
    fn exact(&mut self) -> Result<BTreeSet<String>, RequirementError> {
        if matches!(self.look().0, Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.consume() {
            (Token::Identifier, value) => Ok(BTreeSet::from([value.to_owned()])),
            (_, found) => Err(RequirementError::Unexpected {
                found: found.to_owned(),
                expected: "identifier",
            }),
        }
    }

    /// Values in parentheses; a missing one stands for the empty one.
    fn list(&mut self) -> Result<BTreeSet<String>, RequirementError> {
        let error = |found: &str, expected| {
            Err(RequirementError::Unexpected {
                found: found.to_owned(),
                expected,
            })
        };
        let (token, found) = self.consume();
        if token != Token::OpenPar {
            return Err(RequirementError::NoList { found: found.to_owned() });
        }
        if !matches!(self.look().0, Token::Identifier | Token::Comma | Token::ClosedPar) {
            return error(self.look().1, "',', ')' or identifier");
        }
        let mut values = BTreeSet::new();
        loop {
            let value = match self.look() {
                (Token::Identifier, value) => {
                    self.consume();
                    value
                }
                (Token::Comma | Token::ClosedPar, _) => "",
                (_, found) => return error(found, "',', or identifier"),
            };
            values.insert(value.to_owned());
            match self.consume() {
                (Token::Comma, _) => {}
                (Token::ClosedPar, _) => return Ok(values),
                (_, found) => return error(found, "',' or ')'"),
            }
        }
    }
}

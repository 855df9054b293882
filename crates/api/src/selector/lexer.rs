//! Tokens of a label selector.
//!
//! Source: upstream `labels.Lexer`.

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    End,
    ClosedPar,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    OpenPar,
    Error,
}

/// Tokens with the text they were read from.
pub(super) struct Lexer<'t> {
    rest: &'t str,
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { rest: text }
    }

    fn take(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }
}

impl<'t> Iterator for Lexer<'t> {
    type Item = (Token, &'t str);

    /// Ends after the token `End`, whose text is empty, and never before.
    fn next(&mut self) -> Option<Self::Item> {
        self.rest = self.rest.trim_start_matches(is_space);
        let Some(first) = self.rest.chars().next() else {
            return Some((Token::End, ""));
        };
        if !is_special(first) {
            let end = self.rest.find(|c| is_special(c) || is_space(c)).unwrap_or(self.rest.len());
            let word = self.take(end);
            let token = match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            return Some((token, word));
        }
        let token = match first {
            _ if self.rest.starts_with("==") => Token::DoubleEquals,
            _ if self.rest.starts_with("!=") => Token::NotEquals,
            ')' => Token::ClosedPar,
            '(' => Token::OpenPar,
            ',' => Token::Comma,
            '!' => Token::Not,
            '=' => Token::Equals,
            '>' => Token::Greater,
            '<' => Token::Less,
            _ => Token::Error,
        };
        let length = if matches!(token, Token::DoubleEquals | Token::NotEquals) {
            2
        } else {
            1
        };
        Some((token, self.take(length)))
    }
}

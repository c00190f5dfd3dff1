//! From text to words, texts and marks.

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Word(String),
    Text(String),
    Mark(&'static str),
}

impl Token {
    pub fn shown(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Text(text) => format!("'{text}'"),
            Self::Mark(mark) => (*mark).to_owned(),
        }
    }
}

const MARKS: [&str; 12] = [
    "<=", ">=", "!=", "<>", "=", "<", ">", "(", ")", ",", ";", "\"",
];

pub fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '\'' {
            let (literal, tail) = quoted(&rest[1..])?;
            tokens.push(Token::Text(literal));
            rest = tail;
        } else if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            tokens.push(Token::Mark(mark));
            rest = &rest[mark.len()..];
        } else {
            let word = |c: char| c.is_alphanumeric() || "_.:+-".contains(c);
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            if end == 0 {
                return Err(format!(
                    "line 1:{}: unexpected character '{first}'",
                    text.len() - rest.len()
                ));
            }
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// The text up to the closing quote, escapes resolved, and what follows.
fn quoted(rest: &str) -> Result<(String, &str), String> {
    let mut literal = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Ok((literal, &rest[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n' | 'N')) => literal.push('\n'),
                Some((_, 'r' | 'R')) => literal.push('\r'),
                Some((_, 't' | 'T')) => literal.push('\t'),
                // Kept for LIKE, where they differ from the bare ones.
                Some((_, c @ ('_' | '%'))) => literal.extend(['\\', c]),
                Some((_, c @ ('\'' | '"' | '\\'))) => literal.push(c),
                _ => return Err("illegal escape in a string literal".into()),
            },
            c => literal.push(c),
        }
    }
    Err("unterminated string literal".into())
}

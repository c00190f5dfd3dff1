//! Tells code from comments and text literals, as far as these tests need it.

/// The code with comments removed and literals emptied, and the literals.
pub fn split(text: &str) -> (String, Vec<String>) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut literals) = (String::with_capacity(text.len()), Vec::new());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        if rest.starts_with(&['/', '/']) {
            at += rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        } else if rest.starts_with(&['/', '*']) {
            let end = rest.windows(2).position(|pair| pair == ['*', '/']);
            at += end.map_or(rest.len(), |end| end + 2);
        } else if let Some((literal, length)) =
            raw(rest, code.chars().last()).or_else(|| quoted(rest))
        {
            code.push_str("\"\"");
            literals.push(literal);
            at += length;
        } else if let Some(length) = character(rest) {
            code.push_str("' '");
            at += length;
        } else {
            code.push(chars[at]);
            at += 1;
        }
    }
    (code, literals)
}

/// `"…"`, and its length in the source.
fn quoted(rest: &[char]) -> Option<(String, usize)> {
    if rest.first() != Some(&'"') {
        return None;
    }
    let (mut literal, mut at) = (String::new(), 1);
    while let Some(c) = rest.get(at) {
        match c {
            '"' => return Some((literal, at + 1)),
            '\\' => at += 1,
            c => literal.push(*c),
        }
        at += 1;
    }
    None
}

/// `r"…"` or `r#"…"#`, unless the `r` ends a name.
fn raw(rest: &[char], before: Option<char>) -> Option<(String, usize)> {
    if rest.first() != Some(&'r') || before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    let start = 1 + hashes;
    if rest.get(start) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let body = &rest[start + 1..];
    let length = body.windows(end.len()).position(|window| window == end)?;
    let literal = body[..length].iter().collect();
    Some((literal, start + 1 + length + end.len()))
}

/// The length of a character literal; a lifetime has no second quote where one would be.
fn character(rest: &[char]) -> Option<usize> {
    match rest {
        ['\'', '\\', ..] => Some(3 + rest[3..].iter().position(|c| *c == '\'')?),
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
    .map(|length| length.max(3))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let (code, literals) = split(
            "let a = \"SELECT \\\" 1\"; // \"no\"\nfn f<'a>(c: char) { c == '\"' || b'\\n' == x } /* \" */ r#\"raw \" text\"#",
        );
        assert_eq!(literals, ["SELECT  1", "raw \" text"]);
        assert!(
            code.contains("fn f<'a>(c: char)") && !code.contains("no"),
            "{code}"
        );
    }
}

//! Paths that code names, `use` trees unfolded and made absolute.

/// The path of a module by its file below the crate's root: `/worker/link/mod.rs` is
/// `worker::link`.
pub fn of_file(file: &str) -> String {
    let path = file.trim_start_matches('/').trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    match path {
        "lib" | "mod" => String::new(),
        path => path.replace('/', "::"),
    }
}

/// The code before a file's unit tests.
pub fn without_tests(code: &str) -> &str {
    let tests = code.find("#[cfg(test)]\nmod tests");
    &code[..tests.unwrap_or(code.len())]
}

/// All paths of the crate that a module's code names, from the crate's root.
pub fn named(code: &str, module: &str) -> Vec<String> {
    let mut named = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        let mut at = 0;
        while let Some(found) = code[at..].find(start) {
            let begin = at + found;
            at = begin + start.len();
            let before = code[..begin].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                continue;
            }
            unfold(&code[begin..], String::new(), &mut |path| {
                named.extend(absolute(path, module));
            });
        }
    }
    named
}

/// Calls `each` with every path of a `use` tree, or with the one path that stands there. Returns
/// what follows it.
fn unfold<'c>(code: &'c str, prefix: String, each: &mut impl FnMut(&str)) -> &'c str {
    let mut prefix = prefix;
    let mut rest = code;
    loop {
        rest = rest.trim_start();
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                inner = inner.trim_start();
                if let Some(after) = inner.strip_prefix('}') {
                    return after;
                }
                inner = unfold(inner, prefix.clone(), each).trim_start();
                inner = match inner.strip_prefix("as ") {
                    Some(alias) => {
                        alias.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
                    }
                    None => inner,
                };
                inner = inner.trim_start();
                inner = inner.strip_prefix(',').unwrap_or(inner);
                if inner.is_empty() {
                    return inner;
                }
            }
        }
        let length = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*'))
            .unwrap_or(rest.len());
        prefix.push_str(&rest[..length]);
        rest = &rest[length..];
        match rest.strip_prefix("::") {
            Some(after)
                if after
                    .trim_start()
                    .starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '{' | '*')) =>
            {
                prefix.push_str("::");
                rest = after;
            }
            _ => {
                each(&prefix);
                return if length == 0 {
                    &rest[rest.chars().next().map_or(0, char::len_utf8)..]
                } else {
                    rest
                };
            }
        }
    }
}

fn absolute(path: &str, module: &str) -> Option<String> {
    let mut within: Vec<&str> = module.split("::").filter(|part| !part.is_empty()).collect();
    let mut parts = path.split("::").peekable();
    match parts.next()? {
        "crate" => within.clear(),
        "self" => {}
        "super" => {
            within.pop();
            while parts.next_if_eq(&"super").is_some() {
                within.pop();
            }
        }
        _ => return None,
    }
    // `self` in braces is the module itself.
    within.extend(parts.filter(|part| *part != "self"));
    Some(within.join("::"))
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn use_trees_are_unfolded() {
        let code =
            "use super::{a::{self, B as C}, d};\nuse crate::e::F;\nfn g() { super::super::h::i() }";
        let mut found = named(code, "x::y::z");
        found.sort();
        assert_eq!(
            found,
            ["e::F", "x::h::i", "x::y::a", "x::y::a::B", "x::y::d"]
        );
    }
}

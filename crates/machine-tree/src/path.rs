//! Paths of znodes: `/` or `/name/name`, as ZooKeeper's `PathUtils` accepts them.

use crate::Refusal;

/// Longest path, in bytes. Twice this and some bytes of key layout stay below the store's longest
/// key, and no client's path comes near it.
pub const PATH_BYTES_MAX: usize = 16 * 1024;

/// Accepts `path` as the name of a znode.
///
/// # Errors
/// [`Refusal::BadArguments`] with what is wrong.
pub fn validate(path: &str) -> Result<(), Refusal> {
    let bad = |why: String| Err(Refusal::BadArguments { why });
    validate_length(path)?;
    if path == "/" {
        return Ok(());
    }
    let Some(names) = path.strip_prefix('/') else {
        return bad("a path begins with /".to_owned());
    };
    for name in names.split('/') {
        match name {
            "" => return bad("a path has no empty names and does not end with /".to_owned()),
            "." | ".." => return bad("a path has no relative names".to_owned()),
            _ => {}
        }
    }
    match path.chars().find(|character| is_forbidden(*character)) {
        Some(character) => bad(format!("a path does not contain {}", character.escape_unicode())),
        None => Ok(()),
    }
}

/// Accepts `path` if it is not too long to be a key.
pub(crate) fn validate_length(path: &str) -> Result<(), Refusal> {
    if path.len() > PATH_BYTES_MAX {
        let why = format!("a path of {} bytes is longer than {PATH_BYTES_MAX}", path.len());
        return Err(Refusal::BadArguments { why });
    }
    Ok(())
}

/// Characters that ZooKeeper refuses: controls, the private use area, specials.
fn is_forbidden(character: char) -> bool {
    matches!(character,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}')
}

/// Splits a valid path into parent and own name; `None` for the root.
pub fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.rsplit_once('/')?;
    match (parent, name) {
        (_, "") => None,
        ("", name) => Some(("/", name)),
        both => Some(both),
    }
}

/// The path of child `name` of `parent`.
pub fn join(parent: &str, name: &str) -> String {
    match parent {
        "/" => format!("/{name}"),
        parent => format!("{parent}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_accepted_as_by_zookeeper() {
        for path in ["/", "/a", "/a/b", "/a.b", "/...", "/.a", "/a/b..", "/ü/漢"] {
            assert_eq!(validate(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "a",
            "a/b",
            "//",
            "/a/",
            "/a//b",
            "/.",
            "/..",
            "/a/./b",
            "/a/..",
            "/a\0",
            "/a\u{1}",
            "/\u{7f}",
            "/\u{e000}",
            "/\u{fff0}",
        ] {
            assert!(validate(path).is_err(), "{path:?}");
        }
        assert!(validate(&format!("/{}", "a".repeat(PATH_BYTES_MAX))).is_err());
    }

    #[test]
    fn parent_and_name_join_again() {
        assert_eq!(split("/"), None);
        assert_eq!(split("/a"), Some(("/", "a")));
        assert_eq!(split("/a/b"), Some(("/a", "b")));
        for path in ["/a", "/a/b", "/a/b/c"] {
            let (parent, name) = split(path).expect("not the root");
            assert_eq!(join(parent, name), path);
        }
    }
}

//! What may be called a repository and a ref: nothing that git would take for an option, a program or a question.

/// What may stand before `://`; git itself is told the same list.
pub(super) const SCHEMES: [&str; 5] = ["file", "git", "http", "https", "ssh"];

/// A URL of git, `user@host:path`, or an absolute path.
///
/// # Errors
/// Why not.
pub(super) fn check_repository(text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 4096 || text.trim() != text || text.chars().any(char::is_control) {
        return Err("a repository is 1 to 4096 bytes without control characters".to_owned());
    }
    if text.starts_with('-') {
        return Err("it must not begin with \"-\"".to_owned());
    }
    if text.starts_with('/') {
        return Ok(());
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        if !SCHEMES.contains(&scheme) {
            return Err(format!("the scheme must be one of {}", SCHEMES.join(", ")));
        }
        let authority = rest.split('/').next().unwrap_or("");
        let host = authority.rsplit('@').next().unwrap_or("");
        return match scheme {
            "file" if rest.starts_with('/') => Ok(()),
            "file" => Err("a file URL is file:///absolute/path".to_owned()),
            _ if host.is_empty() || host.starts_with(':') => Err("it has no host".to_owned()),
            _ if authority.starts_with('-') || host.starts_with('-') => {
                Err("user and host must not begin with \"-\"".to_owned())
            }
            _ => Ok(()),
        };
    }
    let wanted = || "give a URL (https, ssh, git, http, file), user@host:path, or an absolute path".to_owned();
    // `ext::sh -c …` and the like name a program, not a place.
    let (address, path) = text.split_once(':').ok_or_else(wanted)?;
    let host = address.rsplit('@').next().unwrap_or("");
    let plain = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let user_is_plain = address.rsplit_once('@').is_none_or(|(user, _)| plain(user));
    if plain(host) && user_is_plain && !path.is_empty() && !path.starts_with([':', '-']) {
        Ok(())
    } else {
        Err(wanted())
    }
}

/// A branch, a tag, a commit or a full ref name, by the rules of `git check-ref-format`.
///
/// # Errors
/// Why not.
pub(super) fn check_ref(text: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{why}; a ref is a branch, a tag or a commit"));
    if text.is_empty() || text.len() > 255 {
        return wrong("it must be 1 to 255 bytes long");
    }
    if text.starts_with('-') {
        return wrong("it must not begin with \"-\"");
    }
    if text.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c)) {
        return wrong("it must not hold spaces, control characters or any of ~^:?*[\\");
    }
    if text == "@" || text.contains("..") || text.contains("@{") || text.ends_with('.') {
        return wrong("it must not be \"@\", hold \"..\" or \"@{\", or end in \".\"");
    }
    let ends_in_lock = |part: &str| part.strip_suffix(".lock").is_some();
    if text.split('/').any(|part| part.is_empty() || part.starts_with('.') || ends_in_lock(part)) {
        return wrong("no part between slashes may be empty, begin with \".\" or end in \".lock\"");
    }
    Ok(())
}

/// Without what stands between `://` and `@`: it may hold a password.
pub(super) fn redacted(repository: &str) -> String {
    match secret(repository) {
        Some(secret) => repository.replacen(secret, "***", 1),
        None => repository.to_owned(),
    }
}

/// User and password of a URL, when there is a password.
pub(super) fn secret(repository: &str) -> Option<&str> {
    let authority = repository.split_once("://")?.1.split('/').next()?;
    authority.rsplit_once('@').map(|(user, _)| user).filter(|user| user.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_urls_and_absolute_paths() {
        for good in [
            "https://example.org/a.git",
            "http://user:word@example.org:8080/a",
            "ssh://git@example.org:22/a.git",
            "git://example.org/a",
            "file:///srv/a.git",
            "git@example.org:team/a.git",
            "example.org:a",
            "/srv/a.git",
            "/srv/with space",
        ] {
            assert_eq!(check_repository(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-oProxyCommand=x",
            "--upload-pack=touch /tmp/x",
            "ext::sh -c touch",
            "ext::/bin/sh",
            "fd::17",
            "ftp://example.org/a",
            "EXT://x/",
            "ssh://-oProxyCommand=x/a",
            "ssh://git@-oProxyCommand=x/a",
            "https:///a",
            "ssh://:22/a",
            "file://host/a",
            "-x@host:a",
            "git@-host:a",
            "host:-a",
            "relative/path",
            "./a",
            "../a",
            "a b:c",
            "https://example.org/a\nb",
            "/srv/\0",
            " /srv/a",
        ] {
            assert!(check_repository(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refs_follow_the_rules_of_check_ref_format() {
        for good in ["main", "v1.0", "feature/a-b", "refs/pull/1/head", "0a1b2c3", "HEAD", "a@b", "ü"] {
            assert_eq!(check_ref(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "[a",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "@",
            "a@{1}",
            "a\nb",
            "a\0",
        ] {
            assert!(check_ref(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_do_not_show() {
        assert_eq!(redacted("https://me:word@example.org/a"), "https://***@example.org/a");
        assert_eq!(redacted("ssh://git@example.org/a"), "ssh://git@example.org/a");
    }
}

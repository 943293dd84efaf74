//! What a program on the machine says of an error, as a reason.

use crate::error::{Error, Reason};

/// By the words of the C locale.
pub(super) fn of(said: &str) -> Reason {
    const WORDS: [(&str, Reason); 14] = [
        ("No space left on device", Reason::NoSpace),
        ("Disk quota exceeded", Reason::NoSpace),
        ("File too large", Reason::NoSpace),
        ("Permission denied", Reason::PermissionDenied),
        ("Operation not permitted", Reason::PermissionDenied),
        ("Read-only file system", Reason::PermissionDenied),
        ("No such file or directory", Reason::FileNotFound),
        ("nonexistent directory", Reason::FileNotFound),
        ("Not a directory", Reason::NotADirectory),
        ("Is a directory", Reason::IsADirectory),
        ("Directory not empty", Reason::DirectoryNotEmpty),
        ("File exists", Reason::FileExists),
        ("File name too long", Reason::InvalidArgument),
        ("Too many levels of symbolic links", Reason::InvalidArgument),
    ];
    WORDS.iter().find(|(words, _)| said.contains(words)).map_or(Reason::Internal, |(_, reason)| *reason)
}

/// An error from what a program said; `what` says what could not be done.
pub(super) fn explain(what: &str, said: &[u8]) -> Error {
    let said = String::from_utf8_lossy(said);
    let said = said.trim();
    let line = said.lines().next().unwrap_or_default();
    // `mkdir: cannot create directory 'x': Permission denied`: the last part is the reason.
    let why = line.rsplit(": ").next().unwrap_or_default().to_lowercase();
    let why = if why.is_empty() { "the host does not say why".to_owned() } else { why };
    Error::new(of(said), format!("{what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_reasons() {
        let error = explain("folder /x cannot be made", b"mkdir: cannot create directory '/x': Permission denied\n");
        assert_eq!(error.reason, Reason::PermissionDenied);
        assert_eq!(error.message, "folder /x cannot be made: permission denied");
        assert_eq!(of("dd: error writing '/x': No space left on device"), Reason::NoSpace);
        assert_eq!(explain("it failed", b"").reason, Reason::Internal);
    }
}

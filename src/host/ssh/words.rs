//! What is sent to a shell on the machine: words in quotes, and the text that starts a command.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::error::{Error, Result};
use crate::host::Command;
use crate::host::fence::Fence;

/// The kernel takes no longer word, the NUL at its end included.
const MAX_WORD: usize = 128 * 1024 - 1;
/// Names that shells keep for themselves: set as a shell's variable, they would not arrive as they are.
const SHELLS_OWN: [&str; 24] = [
    "_",
    "DIRSTACK",
    "EUID",
    "FUNCNAME",
    "GROUPS",
    "HISTCMD",
    "IFS",
    "LINENO",
    "OLDPWD",
    "OPTARG",
    "OPTERR",
    "OPTIND",
    "PPID",
    "PS1",
    "PS2",
    "PS4",
    "PWD",
    "RANDOM",
    "SECONDS",
    "SHELLOPTS",
    "SHLVL",
    "SRANDOM",
    "UID",
    "ENV",
];

/// A word as every POSIX shell takes it, byte for byte.
pub(super) fn quoted(word: impl AsRef<[u8]>) -> Vec<u8> {
    let mut text = Vec::with_capacity(word.as_ref().len() + 2);
    quote(word.as_ref(), &mut text);
    text
}

/// The same for a path.
pub(super) fn quoted_path(path: &Path) -> Vec<u8> {
    quoted(path.as_os_str().as_bytes())
}

fn quote(word: &[u8], text: &mut Vec<u8>) {
    text.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
}

/// A fence as the machine's scripts take it: its file, in Drydock's folder there, and the epoch.
pub(super) fn passage(fence: &Fence, data_dir: &Path) -> Vec<u8> {
    let mut text = quoted_path(&fence.file(data_dir));
    text.extend_from_slice(format!(" {}", fence.epoch).as_bytes());
    text
}

/// 128 random bits in hex: what no command can guess.
///
/// # Errors
/// `INTERNAL` when the machine has no random numbers.
pub(super) fn mark() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::internal("no random numbers are to be had", error))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// How many lines a text has, each ended by a newline.
pub(super) fn lines(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

/// The text by which a shell on the machine becomes the command; it uses the words of `start.sh`.
///
/// # Errors
/// `INVALID_ARGUMENT` for what no program can get.
pub(super) fn spec(command: &Command, data_dir: &Path) -> Result<Vec<u8>> {
    check(command)?;
    let mut text = Vec::with_capacity(512);
    // First: what comes late shall not even look around.
    for fence in &command.fences {
        text.extend_from_slice(b"dd_fence ");
        text.extend_from_slice(&passage(fence, data_dir));
        text.push(b'\n');
    }
    let word = |word: &[u8], text: &mut Vec<u8>| {
        text.push(b' ');
        quote(word, text);
    };
    text.extend_from_slice(b"dd_enter");
    word(command.cwd.as_os_str().as_bytes(), &mut text);
    // What a shell says of a value that it does not like, of a locale for example, is not the command's.
    text.extend_from_slice(b"\n{ export");
    let mut own = Vec::new();
    let reserved = [("DRYDOCK_LEASE_ID", &command.lease_id), ("DRYDOCK_PROCESS_ID", &command.process_id)];
    let asked = command.env.iter().filter(|(name, _)| !reserved.iter().any(|(taken, _)| taken == name));
    // Last, so that nobody can hide behind another lease's name.
    for (name, value) in asked.map(|(name, value)| (name.as_str(), value)).chain(reserved) {
        if is_plain(name) {
            text.extend_from_slice(format!(" {name}=").as_bytes());
            quote(value.as_bytes(), &mut text);
        } else {
            own.push(format!("{name}={value}"));
        }
    }
    text.extend_from_slice(b"; } 2>/dev/null\ndd_look");
    word(command.argv.first().map_or(b"", |program| program.as_bytes()), &mut text);
    text.extend_from_slice(b"\nset --");
    if !own.is_empty() {
        text.extend_from_slice(b" \"$dd_env\"");
    }
    for it in own.iter().chain(&command.argv) {
        word(it.as_bytes(), &mut text);
    }
    text.extend_from_slice(b"\ndd_go \"$@\"\n");
    Ok(text)
}

/// Whether a shell can hold a variable of this name for us.
fn is_plain(name: &str) -> bool {
    let shape = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| !first.is_ascii_digit());
    shape && !SHELLS_OWN.contains(&name) && !name.starts_with("BASH") && !name.starts_with("dd_")
}

fn check(command: &Command) -> Result<()> {
    if command.argv.is_empty() {
        return Err(Error::invalid("argv is empty; it needs at least the program"));
    }
    let words = command.argv.iter().chain(command.env.keys()).chain(command.env.values());
    if words.into_iter().any(|word| word.contains('\0')) || command.cwd.as_os_str().as_bytes().contains(&0) {
        return Err(Error::invalid(
            "a word of the command or its environment holds a NUL byte, which no program can get",
        ));
    }
    if let Some(name) = command.env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(Error::invalid(format!("{name:?} cannot be the name of an environment variable")));
    }
    let variables = command.env.iter().map(|(name, value)| name.len() + 1 + value.len());
    if command.argv.iter().map(String::len).chain(variables).any(|length| length > MAX_WORD) {
        return Err(Error::invalid(format!(
            "a word of the command or its environment is longer than the {MAX_WORD} bytes that the host takes; pass data \
             in stdin or files"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_everything() {
        assert_eq!(quoted("it's $x\n"), b"'it'\\''s $x\n'");
        assert_eq!(quoted(""), b"''");
    }

    #[test]
    fn a_name_that_would_be_code_is_a_word() {
        let env = [("a;reboot", "1"), ("UID", "0"), ("PLAIN", "x y")];
        let command = Command {
            argv: vec!["true".to_owned()],
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            lease_id: "lease_a".to_owned(),
            ..Command::default()
        };
        let text = String::from_utf8(spec(&command, Path::new("/d")).unwrap()).unwrap();
        assert!(text.contains("export PLAIN='x y' DRYDOCK_LEASE_ID='lease_a' DRYDOCK_PROCESS_ID=''; }"), "{text}");
        assert!(text.contains("set -- \"$dd_env\" 'UID=0' 'a;reboot=1' 'true'\n"), "{text}");
    }

    #[test]
    fn what_no_program_can_get_is_refused() {
        let argv = |words: &[&str]| Command {
            argv: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Command::default()
        };
        for bad in [argv(&[]), argv(&["a\0"]), argv(&["true", &"x".repeat(MAX_WORD + 1)])] {
            assert_eq!(spec(&bad, Path::new("/d")).unwrap_err().reason, crate::error::Reason::InvalidArgument);
        }
        spec(&argv(&["true", &"x".repeat(MAX_WORD)]), Path::new("/d")).unwrap();
    }
}

//! The table of bearer tokens: a file that its owner edits, re-read on demand, or the one token that we made ourselves.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

use super::doors::{Door, Principal};

/// A file with more is not a token file.
const MAX_FILE: u64 = 1024 * 1024;
const MAX_NAME: usize = 128;

/// What is wrong with a token file. Never shows a token.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read or written.
    #[error("cannot use the token file {}", .0.display())]
    File(PathBuf, #[source] io::Error),
    /// Others can read it.
    #[error("the token file {} has mode {mode:04o}; it must be 0600 (chmod 600)", .path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is someone else's.
    #[error("the token file {} belongs to uid {uid}; it must belong to the daemon's user", .path.display())]
    Owner {
        /// Which.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// A line that means nothing.
    #[error("line {line} of the tokens: {problem}; a line is `PRINCIPAL TOKEN [admin]`")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

type Digest = [u8; 32];

fn digest(token: &str) -> Digest {
    Sha256::digest(token.as_bytes()).into()
}

/// Tokens by their hash: neither a core dump nor a comparison's timing tells one.
#[derive(Default)]
struct Table(Vec<(Digest, Principal)>);

impl Table {
    fn parse(text: &str) -> Result<Self, TokensError> {
        let mut table = Self::default();
        for (index, content) in text.lines().enumerate() {
            let wrong = |problem| TokensError::Line { line: index + 1, problem };
            let content = content.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let words: Vec<&str> = content.split_whitespace().collect();
            let (name, token, admin) = match words[..] {
                [name, token] => (name, token, false),
                [name, token, "admin"] => (name, token, true),
                [_, _, _] => return Err(wrong("the third word can only be `admin`")),
                [_] => return Err(wrong("the token is missing")),
                _ => return Err(wrong("too many words")),
            };
            if name.len() > MAX_NAME || !name.chars().all(|c| c.is_ascii_graphic()) {
                return Err(wrong("the principal must be at most 128 printable ASCII characters"));
            }
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(wrong("the token must be printable ASCII"));
            }
            table.add(name, token, admin).ok_or_else(|| wrong("the same token stands further up"))?;
        }
        Ok(table)
    }

    fn add(&mut self, name: &str, token: &str, admin: bool) -> Option<()> {
        let digest = digest(token);
        if self.0.iter().any(|(known, _)| *known == digest) {
            return None;
        }
        self.0.push((digest, Principal { name: name.to_owned(), admin, door: Door::Token }));
        Some(())
    }

    fn find(&self, token: &str) -> Option<&Principal> {
        let asked = digest(token);
        // Looks at every byte of every entry, whatever it finds.
        self.0.iter().fold(None, |found, (known, principal)| {
            let differs = known.iter().zip(&asked).fold(0, |differs, (a, b)| differs | (a ^ b));
            if differs == 0 { Some(principal) } else { found }
        })
    }
}

#[derive(Debug)]
enum Source {
    /// Not from a file.
    Fixed,
    /// Lines of `PRINCIPAL TOKEN [admin]`.
    Lines(PathBuf),
    /// A bare token, of this principal.
    Single(PathBuf, String),
}

/// Who may come in over TCP, shared by all that ask.
#[derive(Clone)]
pub struct Tokens {
    table: Arc<RwLock<Arc<Table>>>,
    source: Arc<Source>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("source", &self.source)
            .field("count", &self.table().0.len())
            .finish_non_exhaustive()
    }
}

impl Tokens {
    fn new(table: Table, source: Source) -> Self {
        Self { table: Arc::new(RwLock::new(Arc::new(table))), source: Arc::new(source) }
    }

    /// No token: the TCP door stays shut.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Table::default(), Source::Fixed)
    }

    /// Reads lines of `PRINCIPAL TOKEN [admin]`; empty ones and those that start with `#` mean nothing.
    ///
    /// # Errors
    /// [`TokensError::Line`] for the first line that is wrong.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        Ok(Self::new(Table::parse(text)?, Source::Fixed))
    }

    /// Reads a token file (`--tokens`), which must be ours and nobody else's to read.
    ///
    /// # Errors
    /// Says what is wrong with the file, and where.
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let source = Source::Lines(path.to_owned());
        Ok(Self::new(load(&source)?, source))
    }

    /// Opens the file with one admin token of `principal`, made on first use: 0600, the bare token, as
    /// `DRYDOCK_TOKEN_FILE` wants it.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn generate(path: &Path, principal: &str) -> Result<Self, TokensError> {
        make(path).map_err(|error| TokensError::File(path.to_owned(), error))?;
        let source = Source::Single(path.to_owned(), principal.to_owned());
        Ok(Self::new(load(&source)?, source))
    }

    /// Reads the file again; on an error the tokens stay as they were.
    ///
    /// # Errors
    /// Says what is wrong with the file, and where.
    pub fn reload(&self) -> Result<(), TokensError> {
        if matches!(*self.source, Source::Fixed) {
            return Ok(());
        }
        let table = Arc::new(load(&self.source)?);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
    }

    /// The principal of a token.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<Principal> {
        self.table().find(token).cloned()
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load(source: &Source) -> Result<Table, TokensError> {
    match source {
        Source::Fixed => Ok(Table::default()),
        Source::Lines(path) => Table::parse(&read(path)?),
        Source::Single(path, principal) => {
            let text = read(path)?;
            let token = text.trim();
            if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let problem = "not one bare token; delete the file and a new one is made";
                return Err(TokensError::File(path.clone(), io::Error::new(io::ErrorKind::InvalidData, problem)));
            }
            let mut table = Table::default();
            // The table is empty, so it cannot be in there.
            let _ = table.add(principal, token, true);
            Ok(table)
        }
    }
}

/// Reads a file that only we can read.
fn read(path: &Path) -> Result<String, TokensError> {
    let failed = |error| TokensError::File(path.to_owned(), error);
    let file = File::open(path).map_err(failed)?;
    // Of the open file: the one at this path may be another by now.
    let facts = file.metadata().map_err(failed)?;
    if facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(TokensError::Owner { path: path.to_owned(), uid: facts.uid() });
    }
    if facts.mode() & 0o077 != 0 {
        return Err(TokensError::Mode { path: path.to_owned(), mode: facts.mode() & 0o7777 });
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Makes a token file unless there is one. It appears whole or not at all.
fn make(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    let mut random = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let token = random.iter().fold("dd_".to_owned(), |text, byte| text + &format!("{byte:02x}"));
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{token}")?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        // Somebody was faster; theirs counts.
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map(drop).map_err(|error| error.error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn lines_are_read_and_errors_name_the_line_only() {
        let tokens = Tokens::parse("# people\n\n  ci-web   s3cret \nops t0p admin\r\n").unwrap();
        assert!(!tokens.find("s3cret").unwrap().admin);
        assert!(tokens.find("t0p").unwrap().admin);
        assert_eq!(tokens.find(""), None);
        let long = format!("{} s3cret", "x".repeat(129));
        for bad in ["ci-web", "a s3cret root", "a s3cret admin x", "a s3cret\nb s3cret", "ä s3cret", "a s3crét", &long]
        {
            let error = Tokens::parse(&format!("# first\n{bad}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2") || error.contains("line 3"), "{error}");
            assert!(!error.contains("s3cr"), "{error}");
        }
        assert!(!format!("{tokens:?}").contains("s3cret"));
    }

    #[test]
    fn a_file_must_be_private_and_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        assert!(matches!(Tokens::open(&path), Err(TokensError::File(..))));
        write(&path, "a one\n", 0o640);
        assert!(matches!(Tokens::open(&path), Err(TokensError::Mode { mode: 0o640, .. })));
        write(&path, "a one\n", 0o600);
        let tokens = Tokens::open(&path).unwrap();
        let elsewhere = tokens.clone();
        write(&path, "a two\n", 0o600);
        tokens.reload().unwrap();
        assert!(elsewhere.find("one").is_none() && elsewhere.find("two").is_some());
        write(&path, "broken\n", 0o600);
        assert!(tokens.reload().is_err());
        assert!(elsewhere.find("two").is_some());
    }

    #[test]
    fn one_admin_token_is_made_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let tokens = Tokens::generate(&path, "local").unwrap();
        let token = fs::read_to_string(&path).unwrap();
        assert!(token.starts_with("dd_") && token.trim().len() == 67, "{token}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        let principal = tokens.find(token.trim()).unwrap();
        assert_eq!((principal.name.as_str(), principal.admin), ("local", true));
        Tokens::generate(&path, "local").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), token);
        write(&path, "", 0o600);
        assert!(Tokens::generate(&path, "local").is_err());
    }
}

//! What of a web server is installed on a host: its program, its version, and as whom it would run there.

use std::time::Duration;

use super::installed::Server;
use crate::error::{Error, Reason, Result};
use crate::host::{Command, Host, Ran, Run};

/// Nothing here takes longer: a look, a test of a configuration, a signal.
const LIMIT: Duration = Duration::from_secs(30);

/// Words: whether root may not serve, names of the program, `--`, paths. Prints what of it there is.
const LOOK: &str = r#"
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"; export PATH
shy=$1; shift
program=
while [ "$#" -gt 0 ] && [ "$1" != -- ]; do
  [ -n "$program" ] || program=$(command -v "$1" 2>/dev/null)
  shift
done
[ -n "$program" ] || exit 0
shift
uid=$(id -u)
printf 'program %s\nuid %s\nuser %s\ngroup %s\n' "$program" "$uid" "$(id -un 2>/dev/null)" "$(id -gn 2>/dev/null)"
for path in "$@"; do
  [ ! -e "$path" ] || printf 'there %s\n' "$path"
done
if [ "$shy" = yes ] && [ "$uid" = 0 ]; then
  if unshare --user --map-user=65534 --map-group=65534 true 2>/dev/null; then
    echo 'drop unshare'
  elif setpriv --securebits +no_setuid_fixup true 2>/dev/null; then
    echo 'drop setpriv'
  fi
fi
"$program" -V 2>&1 | sed 's/^/about /'
"#;

/// A web server on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Its file, absolute.
    pub(super) program: String,
    /// We are root there.
    pub(super) is_root: bool,
    /// Our name there; a number where there is none.
    pub(super) user: String,
    /// Our group's.
    pub(super) group: String,
    /// Those of [`Server::marks`] that exist.
    pub(super) there: Vec<String>,
    /// How root becomes somebody whom the server accepts; for servers that refuse root.
    pub(super) drop: Option<Drop>,
    /// What it says of itself.
    pub(super) about: String,
}

/// How a server that refuses to work for root is run by root, as the one who owns the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drop {
    /// In a user namespace, where root goes by another number and has no privileges.
    Unshare,
    /// Its workers change to nobody, and keep the right to read.
    SetPriv,
}

impl Found {
    /// Looks for it.
    ///
    /// # Errors
    /// `HTTPD_CONFIG_INVALID` when it is not installed.
    pub(super) async fn look(host: &dyn Host, server: &dyn Server, owner: &str) -> Result<Self> {
        if let Some(found) = Self::seek(host, server, owner).await? {
            return Ok(found);
        }
        let (name, package) = (server.name(), server.package());
        let why = format!(
            "{name} is not installed on the leased host (PATH, /usr/sbin, /usr/local/sbin): install it (Debian: \
             apt-get install {package}), or choose another driver"
        );
        Err(Error::new(Reason::HttpdConfigInvalid, why))
    }

    /// Looks for it; `None` when it is not installed.
    ///
    /// # Errors
    /// Those of the host.
    pub(super) async fn seek(host: &dyn Host, server: &dyn Server, owner: &str) -> Result<Option<Self>> {
        let shy = if server.refuses_root() { "yes" } else { "no" };
        let words = ["sh", "-c", LOOK, "sh", shy].into_iter();
        let words = words.chain(server.programs().iter().copied()).chain(["--"]).chain(server.marks().iter().copied());
        let ran = run(host, owner, words, "").await?;
        let found = Self::parse(&String::from_utf8_lossy(&ran.stdout));
        Ok((!found.program.is_empty()).then_some(found))
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let value = value.to_owned();
            match key {
                "program" => found.program = value,
                "uid" => found.is_root = value == "0",
                "user" => found.user = value,
                "group" => found.group = value,
                "there" => found.there.push(value),
                "drop" if value == "unshare" => found.drop = Some(Drop::Unshare),
                "drop" => found.drop = Some(Drop::SetPriv),
                _ => {
                    found.about.push_str(&value);
                    found.about.push('\n');
                }
            }
        }
        found
    }

    /// The word after `label` in what it says of itself; the version stands so.
    pub(super) fn version(&self, label: &str) -> String {
        let rest = self.about.split_once(label).map_or("", |(_, rest)| rest);
        rest.split_whitespace().next().unwrap_or("unknown").to_owned()
    }

    /// The command line, with what it takes to be run by root before it.
    pub(super) fn words(&self, words: &[&str]) -> Vec<String> {
        let before: &[&str] = match self.drop {
            None => &[],
            Some(Drop::Unshare) => &["unshare", "--user", "--map-user=65534", "--map-group=65534"],
            Some(Drop::SetPriv) => &["setpriv", "--securebits", "+no_setuid_fixup"],
        };
        before.iter().copied().chain([self.program.as_str()]).chain(words.iter().copied()).map(str::to_owned).collect()
    }
}

/// Runs a short command for a site.
///
/// # Errors
/// Those of the host, `COMMAND_FAILED` when it takes too long.
pub(super) async fn run<'a>(
    host: &dyn Host,
    owner: &str,
    words: impl IntoIterator<Item = &'a str> + Send,
    input: &str,
) -> Result<Ran> {
    let argv: Vec<String> = words.into_iter().map(str::to_owned).collect();
    let program = argv.first().cloned().unwrap_or_default();
    // Not the site's folder: whatever works there is taken for its server.
    let cwd = host.data_dir().to_owned();
    let command = Command { argv, cwd, lease_id: owner.to_owned(), ..Command::default() };
    let ran = host.run(Run { command, input: input.as_bytes().to_vec(), timeout: LIMIT }).await?;
    if ran.exit.is_none() {
        let why = format!("{program} did not end in {} s: {}", LIMIT.as_secs(), last_words(&ran.stderr_tail));
        return Err(Error::new(Reason::CommandFailed, why));
    }
    Ok(ran)
}

/// The last lines of what a tool wrote, for an error: at most 600 characters.
pub(super) fn last_words(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut words = String::new();
    for line in lines.iter().rev() {
        if !words.is_empty() && words.len() + line.len() > 600 {
            break;
        }
        words = if words.is_empty() { (*line).to_owned() } else { format!("{line}; {words}") };
    }
    if words.is_empty() { "it said nothing".to_owned() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_look_prints_is_read() {
        let text = "program /usr/sbin/nginx\nuid 0\nuser root\ngroup root\nthere /etc/a b\nabout nginx version: nginx/1.22.1 (x)\n";
        let found = Found::parse(text);
        assert!(found.is_root && found.user == "root" && found.there == ["/etc/a b"]);
        assert_eq!(found.version("nginx/"), "1.22.1");
        assert_eq!(found.version("Apache/"), "unknown");
        assert_eq!(found.words(&["-t"]), ["/usr/sbin/nginx", "-t"]);
        assert_eq!(Found::parse(""), Found::default());
    }

    #[test]
    fn last_words_are_few() {
        assert_eq!(last_words(" a\n\nb \n"), "a; b");
        assert_eq!(last_words("\n"), "it said nothing");
        assert!(last_words(&"0123456789\n".repeat(1000)).len() < 620);
    }
}

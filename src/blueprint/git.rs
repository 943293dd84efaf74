//! git, so that no URL and no ref is ever an option, nothing asks a question, and no configuration surprises.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Step;
use super::repository::{SCHEMES, redacted, secret};
use crate::host::turns::Turns;
use crate::host::{Command, Exit, Host, Ran, Run};

/// The only configuration that our calls see. It is a file because git takes `-c` away from the other half of a local
/// transport, which is the half that asks who owns a repository.
const CONFIG: &str = "\
[safe]
\tdirectory = *
[protocol \"ext\"]
\tallow = never
[core]
\thooksPath = /dev/null
[gc]
\tautoDetach = false
[maintenance]
\tautoDetach = false
[fetch]
\tunpackLimit = 1
[advice]
\tdetachedHead = false
";

/// What was checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckedOut {
    /// Full.
    pub(super) commit: String,
    /// Branch, tag or commit.
    pub(super) name: String,
}

/// What a ref stands for on the remote.
struct Target {
    /// `None` while an abbreviated commit is not looked up.
    commit: Option<String>,
    branch: Option<String>,
    name: String,
    /// A ref outside branches and tags, to be fetched by name.
    extra: Option<String>,
}

/// git on a host, for one resource.
pub(super) struct Git<'a> {
    /// Where.
    pub(super) host: &'a dyn Host,
    /// Whom its processes belong to.
    pub(super) owner: &'a str,
    /// It is killed then.
    pub(super) until: Instant,
    /// It is killed then too.
    pub(super) cancel: &'a CancellationToken,
    /// At the mirrors.
    pub(super) turns: &'a Turns,
}

impl Git<'_> {
    /// Checks `wanted` (the remote's HEAD unless given) of `repository` out into `folder`, which is empty or missing.
    pub(super) async fn check_out(
        &self,
        repository: &str,
        wanted: Option<&str>,
        folder: &Path,
    ) -> Result<CheckedOut, Step> {
        let cache = self.host.data_dir().join("cache").join("git");
        self.host.make_folder(&cache).await?;
        let config = cache.join("config");
        if self.host.read_text(&config).await?.as_deref() != Some(CONFIG) {
            self.host.write_text(&config, CONFIG).await?;
        }
        let mirror = cache.join(hash(repository));
        let mut target = self.look_up(repository, wanted.unwrap_or("HEAD")).await?;

        // Most of the time the mirror has it already, and many may copy from it at once.
        let turn = self.turns.shared(self.host, &mirror).await;
        let (_turn, commit) = if let Some(commit) = self.find(&mirror, &target).await? {
            (turn, commit)
        } else {
            drop(turn);
            let alone = self.turns.alone(self.host, &mirror).await;
            // Who waited here may find that another has fetched it meanwhile.
            let found = match self.find(&mirror, &target).await? {
                Some(commit) => commit,
                None => self.fetch(&mirror, repository, &target).await?,
            };
            (alone.downgrade(), found)
        };
        target.commit = Some(commit.clone());
        self.copy(&mirror, repository, &target, &commit, folder).await?;
        Ok(CheckedOut { commit, name: target.name })
    }

    /// Asks the remote what `wanted` is; a full commit needs no asking.
    async fn look_up(&self, repository: &str, wanted: &str) -> Result<Target, Step> {
        let hex = wanted.len() >= 4 && wanted.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let commit = |commit: Option<String>| Target { commit, branch: None, name: wanted.to_owned(), extra: None };
        if hex && (wanted.len() == 40 || wanted.len() == 64) {
            return Ok(commit(Some(wanted.to_owned())));
        }

        let branch = format!("refs/heads/{}", wanted.strip_prefix("refs/heads/").unwrap_or(wanted));
        let tag = format!("refs/tags/{}", wanted.strip_prefix("refs/tags/").unwrap_or(wanted));
        let peeled = format!("{tag}^{{}}");
        let listed = if wanted == "HEAD" {
            self.ask(repository, &["HEAD"]).await?
        } else {
            self.ask(repository, &[&branch, &tag, &peeled, wanted]).await?
        };
        let at = |name: &str| listed.get(name).cloned();

        if wanted == "HEAD" {
            let Some(commit) = at("HEAD") else {
                return Err(Step::refuse(format!("the repository {} has no commit yet", redacted(repository)), ""));
            };
            // `ref: refs/heads/main` stands where a commit would.
            let branch = at("ref: HEAD").and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned));
            let name = branch.clone().unwrap_or_else(|| commit.clone());
            return Ok(Target { commit: Some(commit), branch, name, extra: None });
        }
        if let Some(commit) = at(&branch) {
            let name = branch["refs/heads/".len()..].to_owned();
            return Ok(Target { commit: Some(commit), branch: Some(name.clone()), name, extra: None });
        }
        if let Some(commit) = at(&peeled).or_else(|| at(&tag)) {
            return Ok(Target { commit: Some(commit), branch: None, name: wanted.to_owned(), extra: None });
        }
        if wanted.starts_with("refs/")
            && let Some(commit) = at(wanted)
        {
            let (name, extra) = (wanted.to_owned(), Some(wanted.to_owned()));
            return Ok(Target { commit: Some(commit), branch: None, name, extra });
        }
        // Perhaps an abbreviated commit; if not, the fetch tells in git's own words.
        Ok(Target { extra: (!hex).then(|| wanted.to_owned()), ..commit(None) })
    }

    /// Refs of the remote with their commits; what HEAD points to is under `ref: HEAD`.
    async fn ask(&self, repository: &str, patterns: &[&str]) -> Result<BTreeMap<String, String>, Step> {
        let mut words = vec!["ls-remote", "--symref", "--", repository];
        words.extend(patterns);
        let output = self.must(&words, repository).await?;
        Ok(output
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(value, name)| match value.strip_prefix("ref: ") {
                Some(points_to) => (format!("ref: {name}"), points_to.to_owned()),
                None => (name.to_owned(), value.to_owned()),
            })
            .collect())
    }

    /// The full commit, when the mirror has it.
    async fn find(&self, mirror: &Path, target: &Target) -> Result<Option<String>, Step> {
        let wanted = format!("{}^{{commit}}", target.commit.as_deref().unwrap_or(&target.name));
        if target.commit.is_none() && target.extra.is_some() {
            return Ok(None);
        }
        let git_dir = git_dir(mirror);
        let ran = self.run(&[&git_dir, "rev-parse", "--verify", "--quiet", "--end-of-options", &wanted]).await?;
        Ok(ran.succeeded().then(|| String::from_utf8_lossy(&ran.stdout).trim().to_owned()))
    }

    /// Brings the mirror up to date; the caller holds it alone.
    async fn fetch(&self, mirror: &Path, repository: &str, target: &Target) -> Result<String, Step> {
        let fetched = match self.fetch_all(mirror, repository, target).await {
            // A mirror that a crash left locked or torn is made anew.
            Err(Step::Failed(failure)) if is_torn(&failure.tail) => {
                self.host.remove_folder(mirror).await?;
                self.fetch_all(mirror, repository, target).await
            }
            other => other,
        };
        fetched?;
        if let Some(commit) = self.find(mirror, target).await? {
            return Ok(commit);
        }
        let git_dir = git_dir(mirror);
        let wanted = target.commit.as_deref().unwrap_or(&target.name);
        // A commit that no branch or tag reaches: some servers give it when asked by name.
        let words = [&git_dir, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", repository, wanted];
        let ran = self.run(&words).await?;
        if let Some(commit) = self.find(mirror, target).await? {
            return Ok(commit);
        }
        let what = format!("the repository {} has no branch, tag or commit {wanted:?}", redacted(repository));
        Err(Step::refuse(what, tail(&ran, repository)))
    }

    async fn fetch_all(&self, mirror: &Path, repository: &str, target: &Target) -> Result<(), Step> {
        let path = mirror.to_string_lossy();
        self.must(&["init", "--quiet", "--bare", "--template=", "--", &path], repository).await?;
        let git_dir = git_dir(mirror);
        let mut words = vec![
            git_dir.as_str(),
            "fetch",
            "--quiet",
            "--force",
            "--prune",
            "--no-tags",
            "--no-write-fetch-head",
            "--",
            repository,
            "+refs/heads/*:refs/heads/*",
            "+refs/tags/*:refs/tags/*",
        ];
        let extra = target.extra.as_ref().map(|name| format!("+{name}:refs/drydock/{name}"));
        words.extend(extra.as_deref());
        self.must(&words, repository).await.map(drop)
    }

    /// Copies from the mirror (hard links, so it is quick and lives on without the mirror) and checks out.
    async fn copy(
        &self,
        mirror: &Path,
        repository: &str,
        target: &Target,
        commit: &str,
        folder: &Path,
    ) -> Result<(), Step> {
        let (mirror, folder) = (mirror.to_string_lossy(), folder.to_string_lossy());
        let clone = ["clone", "--quiet", "--local", "--no-checkout", "--template=", "--", &mirror, &folder];
        self.must(&clone, repository).await?;
        self.must(&["-C", &folder, "config", "remote.origin.url", repository], repository).await?;
        let Some(branch) = &target.branch else {
            let words = ["-C", &folder, "checkout", "--quiet", "--force", "--detach", commit];
            return self.must(&words, repository).await.map(drop);
        };
        self.must(&["-C", &folder, "checkout", "--quiet", "--force", "-B", branch, commit], repository).await?;
        // The branch may be gone from a mirror that was fetched again meanwhile: then it has no upstream.
        self.run(&["-C", &folder, "branch", "--quiet", &format!("--set-upstream-to=origin/{branch}")]).await?;
        Ok(())
    }

    /// Runs git and takes anything but success as a failure, in git's own words.
    async fn must(&self, words: &[&str], repository: &str) -> Result<String, Step> {
        let ran = self.run(words).await?;
        if ran.succeeded() {
            return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
        }
        let verb = words.iter().find(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).unwrap_or(&"");
        let tail = tail(&ran, repository);
        let repository = redacted(repository);
        Err(match ran.exit {
            Some(Exit::Code(127)) => Step::refuse("git is not installed on the host", tail),
            Some(_) if is_permanent(&tail) => Step::refuse(format!("git {verb} refused {repository}"), tail),
            Some(_) => Step::stumble(format!("git {verb} failed for {repository}"), tail),
            None => Step::stumble(
                format!("git {verb} for {repository} took too long; raise \"timeout\" of the blueprint"),
                tail,
            ),
        })
    }

    async fn run(&self, words: &[&str]) -> Result<Ran, Step> {
        let cache = self.host.data_dir().join("cache").join("git");
        let config = cache.join("config");
        let settings = [
            ("GIT_CONFIG_GLOBAL", config.to_string_lossy().into_owned()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_ATTR_NOSYSTEM", "1".to_owned()),
            ("GIT_ALLOW_PROTOCOL", SCHEMES.join(":")),
            ("GIT_TERMINAL_PROMPT", "0".to_owned()),
            ("GIT_ASKPASS", "/bin/false".to_owned()),
            ("SSH_ASKPASS", "/bin/false".to_owned()),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30".to_owned()),
            ("GIT_HTTP_LOW_SPEED_LIMIT", "1000".to_owned()),
            ("GIT_HTTP_LOW_SPEED_TIME", "60".to_owned()),
            // Its words are matched below.
            ("LC_ALL", "C".to_owned()),
        ];
        let command = Command {
            argv: ["git"].iter().chain(words).map(ToString::to_string).collect(),
            cwd: cache,
            env: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            lease_id: self.owner.to_owned(),
            ..Command::default()
        };
        let timeout = self.until.saturating_duration_since(Instant::now());
        tokio::select! {
            // Dropping it kills the tree.
            ran = self.host.run(Run { command, input: Vec::new(), timeout }) => Ok(ran?),
            () = self.cancel.cancelled() => Err(Step::stumble("cancelled", "")),
        }
    }
}

fn git_dir(mirror: &Path) -> String {
    format!("--git-dir={}", mirror.display())
}

fn hash(repository: &str) -> PathBuf {
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(repository.as_bytes()) {
        let _ = write!(name, "{byte:02x}");
    }
    PathBuf::from(name)
}

fn tail(ran: &Ran, repository: &str) -> String {
    let text = ran.stderr_tail.trim_end();
    secret(repository).map_or_else(|| text.to_owned(), |secret| text.replace(secret, "***"))
}

/// Whether git's words mean that trying again cannot help.
fn is_permanent(words: &str) -> bool {
    const SIGNS: [&str; 16] = [
        "does not appear to be a git repository",
        "does not exist",
        "not found",
        "not a git repository",
        "couldn't find remote ref",
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "Permission denied",
        "Host key verification failed",
        "not allowed",
        "not our ref",
        "No space left on device",
        "Invalid",
        "invalid refspec",
        "strange hostname",
    ];
    SIGNS.iter().any(|sign| words.contains(sign))
}

/// Whether the mirror itself is at fault: a lock or a torn file of a git that was killed.
fn is_torn(words: &str) -> bool {
    [
        "File exists",
        ".lock",
        "corrupt",
        "bad object",
        "missing blob",
        "missing tree",
        "invalid object",
        "unable to read",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

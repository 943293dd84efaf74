//! A real OpenSSH server on a free loopback port, as the user who runs the tests, root or not.
//!
//! It sees an own `/etc/passwd`, in which that user's login shell and home are those of the test: sshd is started in a mount
//! namespace (and without root in user namespaces) of its own. All that it starts carries a mark in its environment, by which
//! what is left can be counted and is ended.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drydock::host::ssh::target::Target;
use rustix::process::{Pid, Signal, geteuid, getgid, kill_process};
use tempfile::TempDir;

/// In which sshd listens, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The login shell of the user on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shell {
    Dash,
    /// Reads `~/.bashrc` before each command.
    Bash,
    Busybox,
}

impl Shell {
    pub(crate) const ALL: [Self; 3] = [Self::Dash, Self::Bash, Self::Busybox];
}

/// How the machine offers files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sftp {
    /// A part of sshd.
    Internal,
    /// The program beside it, run by the login shell.
    Program,
    /// Not at all.
    Missing,
}

/// What kind of machine to start.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) shell: Shell,
    pub(crate) sftp: Sftp,
    /// Sessions on one connection; `None` is sshd's own 10.
    pub(crate) max_sessions: Option<u32>,
    /// `start:rate:full`; `None` is sshd's own 10:30:100.
    pub(crate) max_startups: Option<&'static str>,
    /// Where it listens.
    pub(crate) address: String,
    /// Words before the command that starts it, for example `ip netns exec NAME`.
    pub(crate) within: Vec<String>,
    /// More lines of `sshd_config`.
    pub(crate) extra: Vec<String>,
    /// A folder whose programs come before those of the system, for what runs there.
    pub(crate) programs: Option<PathBuf>,
    /// What a shell does with the file systems of the machine before it listens, at each start; `$1` is its folder.
    pub(crate) mounts: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shell: Shell::Dash,
            sftp: Sftp::Internal,
            max_sessions: None,
            max_startups: None,
            address: "127.0.0.1".to_owned(),
            within: Vec::new(),
            extra: Vec::new(),
            programs: None,
            mounts: ":",
        }
    }
}

/// A machine. Dropped, it is gone with all that runs on it.
pub(crate) struct Sshd {
    folder: TempDir,
    options: Options,
    user: String,
    mark: String,
    port: u16,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sshd {
    /// A machine as most are.
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    /// A machine with this login shell.
    pub(crate) fn shell(shell: Shell) -> Self {
        Self::with(Options { shell, ..Options::default() })
    }

    /// A machine with these peculiarities.
    pub(crate) fn with(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("box").tempdir().unwrap();
        let home = folder.path().join("home");
        fs::create_dir(&home).unwrap();
        let user = accounts(folder.path(), &home, options.shell);
        keygen(&folder.path().join("host"));
        keygen(&folder.path().join("key"));
        if geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let mark = folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let log = Arc::default();
        for attempt in 1.. {
            let port = free_port(&options.address);
            configure(folder.path(), &options, port, &mark);
            match launch(folder.path(), &options, &log) {
                Ok(child) => return Self { folder, options, user, mark, port, child, log },
                // Someone else may have taken the port.
                Err(said) => assert!(attempt < 5, "sshd does not start: {said}"),
            }
        }
        unreachable!("either it runs or the test has failed")
    }

    /// How to reach it, with its host key pinned.
    pub(crate) fn target(&self) -> Target {
        Target {
            id: self.mark.clone(),
            address: self.options.address.clone(),
            port: self.port,
            user: self.user.clone(),
            identity_file: Some(self.folder.path().join("key")),
            certificate_file: None,
            identity_agent: None,
            jump: None,
            ssh_config: None,
            host_keys: vec![self.host_key()],
        }
    }

    /// How it is registered, its key pinned.
    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        let target = self.target();
        let attributes = [
            ("address", target.address),
            ("port", target.port.to_string()),
            ("user", target.user),
            ("identity_file", target.identity_file.unwrap().display().to_string()),
            ("host_key", self.host_key()),
        ];
        attributes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Its public host key: algorithm and key.
    pub(crate) fn host_key(&self) -> String {
        let line = fs::read_to_string(self.folder.path().join("host.pub")).unwrap();
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// The home of the user there.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A place of the test beside the home; `key` and `key.pub` in it are the user's.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path of the machine, as it is seen from here: its file systems may be its own.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.child.id()))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What sshd has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Gives the machine another host key, from the next [`Sshd::restart`] on.
    pub(crate) fn rekey(&self) {
        for name in ["host", "host.pub"] {
            fs::remove_file(self.folder.path().join(name)).unwrap();
        }
        keygen(&self.folder.path().join("host"));
    }

    /// Ends the server, its connections and what ran over them; nothing listens then.
    pub(crate) fn end(&mut self) {
        // A process that is being started may be missed the first time.
        loop {
            let all = self.tree();
            for pid in &all {
                signal(*pid, Signal::KILL);
            }
            if self.child.try_wait().unwrap().is_some() && all.is_empty() {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// As after a reboot: everything that ran has ended, and it listens on the same port with the configuration as it was.
    pub(crate) fn restart(&mut self) {
        self.end();
        self.child = launch(self.folder.path(), &self.options, &self.log).unwrap();
    }

    /// `STOP` makes the whole machine hang, `CONT` lets it go on.
    pub(crate) fn signal(&self, what: Signal) {
        // From the top: what is stopped starts nothing more.
        for pid in self.tree() {
            signal(pid, what);
        }
    }

    /// Processes of connections: about two for each that is authenticated.
    pub(crate) fn connections(&self) -> usize {
        descendants(self.child.id()).len() - 1
    }

    /// What runs there: commands that were started over ssh, wherever they went, but not sshd itself.
    pub(crate) fn commands(&self) -> Vec<u32> {
        let mark = format!("DRYDOCK_TEST_BOX={}", self.mark).into_bytes();
        let marked = |pid: &u32| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|text| text.split(|byte| *byte == 0).any(|it| it == mark))
        };
        processes().into_iter().map(|(pid, _)| pid).filter(marked).collect()
    }

    /// The server, all below it, and what carries the mark; zombies are none.
    fn tree(&self) -> Vec<u32> {
        let mut all = descendants(self.child.id());
        all.extend(self.commands());
        all
    }
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
    // It may have ended by itself.
    let _ = kill_process(pid, signal);
}

/// Pairs of process and parent, without zombies.
fn processes() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut words = stat.rsplit_once(") ")?.1.split(' ');
        (words.next()? != "Z").then_some((pid, words.next()?.parse().ok()?))
    };
    pids.filter_map(parent).collect()
}

/// A process and all below it, parents first; empty when it has ended.
fn descendants(root: u32) -> Vec<u32> {
    let all = processes();
    let mut found: Vec<u32> = all.iter().map(|(pid, _)| *pid).filter(|pid| *pid == root).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

fn free_port(address: &str) -> u16 {
    // An address of another network namespace cannot be tried from here.
    TcpListener::bind((address, 0)).map_or(2222, |listener| listener.local_addr().unwrap().port())
}

fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(path).status();
    assert!(status.expect("ssh-keygen, of Debian's openssh-client").success());
}

/// Writes the copy of `/etc/passwd` in which the user has this shell and home; answers the user's name.
fn accounts(folder: &Path, home: &Path, shell: Shell) -> String {
    let shell = match shell {
        Shell::Dash => PathBuf::from("/bin/dash"),
        Shell::Bash => PathBuf::from("/bin/bash"),
        Shell::Busybox => {
            let path = folder.join("sh");
            let busybox = program("busybox");
            symlink(busybox, &path).unwrap();
            path
        }
    };
    let uid = geteuid().as_raw().to_string();
    let mut user = None;
    let mut text = String::new();
    for line in fs::read_to_string("/etc/passwd").unwrap().lines() {
        let fields: Vec<_> = line.split(':').collect();
        if user.is_none() && fields.get(2) == Some(&uid.as_str()) {
            user = Some(fields[0].to_owned());
            let start = fields[..5].join(":");
            writeln!(text, "{start}:{}:{}", home.display(), shell.display()).unwrap();
        } else {
            writeln!(text, "{line}").unwrap();
        }
    }
    let user = user.unwrap_or_else(|| {
        let group = getgid().as_raw();
        writeln!(text, "tester:x:{uid}:{group}::{}:{}", home.display(), shell.display()).unwrap();
        "tester".to_owned()
    });
    fs::write(folder.join("passwd"), text).unwrap();
    user
}

/// The path of a system program; sshd and others may lie outside of a user's PATH.
fn program(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"]);
    let found = folders.map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{name} is missing: .ci/tools test says which package has it"))
}

fn configure(folder: &Path, options: &Options, port: u16, mark: &str) {
    let here = folder.display();
    let address = &options.address;
    let mut text = format!(
        "Port {port}\nListenAddress {address}\nHostKey {here}/host\nAuthorizedKeysFile {here}/key.pub\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n\
         PermitRootLogin prohibit-password\nSetEnv DRYDOCK_TEST_BOX={mark}"
    );
    if let Some(programs) = &options.programs {
        write!(text, " PATH={}:/usr/local/bin:/usr/bin:/bin", programs.display()).unwrap();
    }
    text.push('\n');
    match options.sftp {
        Sftp::Internal => text.push_str("Subsystem sftp internal-sftp\n"),
        Sftp::Program => text.push_str("Subsystem sftp /usr/lib/openssh/sftp-server\n"),
        Sftp::Missing => {}
    }
    if let Some(sessions) = options.max_sessions {
        writeln!(text, "MaxSessions {sessions}").unwrap();
    }
    if let Some(startups) = options.max_startups {
        writeln!(text, "MaxStartups {startups}").unwrap();
    }
    for line in &options.extra {
        writeln!(text, "{line}").unwrap();
    }
    fs::write(folder.join("sshd_config"), text).unwrap();
}

/// Starts sshd and waits until it listens; what it said when it does not.
fn launch(folder: &Path, options: &Options, log: &Arc<Mutex<String>>) -> Result<Child, String> {
    let sshd = program("sshd");
    // Without root: root of a user namespace for the mount, then oneself again in another below it.
    let (spaces, back) = if geteuid().is_root() {
        (vec!["unshare", "--mount"], String::new())
    } else {
        let (user, group) = (geteuid().as_raw(), getgid().as_raw());
        let back = format!("unshare --user --map-user={user} --map-group={group}");
        (vec!["unshare", "--user", "--map-root-user", "--mount"], back)
    };
    let script = format!(
        r#"mount --bind "$1/passwd" /etc/passwd && {{ {}; }} && exec $3 "$2" -D -e -f "$1/sshd_config""#,
        options.mounts
    );
    let words: Vec<&str> = options.within.iter().map(String::as_str).chain(spaces).collect();
    let mut child = Command::new(words[0])
        .args(&words[1..])
        .args(["sh", "-c", &script, "sh"])
        .arg(folder)
        .arg(sshd)
        .arg(back)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let (tell, told) = channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let kept = Arc::clone(log);
    std::thread::spawn(move || follow(stderr, &kept, &tell));
    if told.recv_timeout(PATIENCE).is_ok() {
        return Ok(child);
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(log.lock().unwrap().clone())
}

/// Keeps what sshd says, and tells when it listens.
fn follow(stderr: impl BufRead, log: &Mutex<String>, tell: &Sender<()>) {
    for line in stderr.lines() {
        let Ok(line) = line else { return };
        if line.contains("Server listening on") {
            let _ = tell.send(());
        }
        let mut log = log.lock().unwrap();
        log.push_str(&line);
        log.push('\n');
    }
}

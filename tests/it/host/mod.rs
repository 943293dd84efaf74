//! What every machine must do alike, whichever way it is reached, and what is special where a shell on the far side works
//! for us.

mod ends;
mod fences;
mod folders;
mod lifeline;
mod sham;
mod suite;

use std::path::PathBuf;
use std::sync::Arc;

use drydock::error::Error;
use drydock::host::local::LocalHost;
use drydock::host::ssh::host::SshHost;
use drydock::host::ssh::link::Link;
use drydock::host::ssh::masters::Masters;
use drydock::host::{Exit, Host, Place};
use drydock::interface::command::{ExecSpec, Execution, Inputs, exec};
use tokio_util::sync::CancellationToken;

use crate::place::{Said, listen, soon};

use self::sham::{Sham, Shell};
use crate::ssh::kit::{Quay, linked};
use crate::ssh::sshd::{self, Sshd};

/// Runs each of these tests, which take a [`Yard`], on every kind of machine.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        everywhere!(@ local Yard::local() => $($test),+);
        everywhere!(@ dash Yard::sham(Shell::Dash) => $($test),+);
        everywhere!(@ bash Yard::sham(Shell::Bash) => $($test),+);
        everywhere!(@ busybox Yard::sham(Shell::Busybox) => $($test),+);

        /// The same over real ssh, one after the other.
        async fn over_ssh(shell: sshd::Shell) {
            let machine = Machine::shell(shell).await;
            $(
                println!("{}", stringify!($test));
                $test(machine.yard()).await;
            )+
        }

        #[tokio::test]
        async fn over_ssh_to_dash() {
            over_ssh(sshd::Shell::Dash).await;
        }

        #[tokio::test]
        async fn over_ssh_to_bash() {
            over_ssh(sshd::Shell::Bash).await;
        }

        #[tokio::test]
        async fn over_ssh_to_busybox() {
            over_ssh(sshd::Shell::Busybox).await;
        }
    };
    (@ $machine:ident $yard:expr => $($test:ident),+) => {
        mod $machine {
            use super::*;
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($yard).await;
                }
            )+
        }
    };
}
use everywhere;

pub(crate) fn code_or_signal(yard: &Yard, number: i32) -> Exit {
    if yard.remote { Exit::Code(128 + number) } else { Exit::Signal(number) }
}

/// A machine, and a lease's place on it. The folder is the same seen from here and from there.
pub(crate) struct Yard {
    pub(crate) data: tempfile::TempDir,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) place: Place,
    pub(crate) lease: String,
    /// Whether signals come back as codes, by 128 more.
    pub(crate) remote: bool,
}

/// A real machine over ssh, on which many tests run one after the other.
pub(crate) struct Machine {
    _quay: Quay,
    _sshd: Sshd,
    pub(crate) link: Arc<Masters>,
    pub(crate) host: Arc<dyn Host>,
}

impl Machine {
    pub(crate) async fn with(options: sshd::Options) -> Self {
        let sshd = Sshd::with(options);
        let (quay, link) = linked(&sshd).await;
        let data = sshd.home().join(".drydock");
        let host = SshHost::new(Arc::clone(&link) as Arc<dyn Link>, data, "127.0.0.1".to_owned()).fenced(true);
        Self { _quay: quay, _sshd: sshd, link, host: Arc::new(host) }
    }

    pub(crate) async fn shell(shell: sshd::Shell) -> Self {
        Self::with(sshd::Options { shell, ..sshd::Options::default() }).await
    }

    /// A new lease there.
    pub(crate) fn yard(&self) -> Yard {
        Yard::of(tempfile::tempdir().unwrap(), Arc::clone(&self.host), true)
    }
}

impl Yard {
    pub(crate) fn of(data: tempfile::TempDir, host: Arc<dyn Host>, remote: bool) -> Self {
        let lease = drydock::model::id::LeaseId::new(1_000_000).to_string();
        let root = host.data_dir().join("leases").join(&lease);
        let place = Place { host: Arc::clone(&host), root, quota: None };
        Self { data, host, place, lease, remote }
    }

    pub(crate) fn local() -> Self {
        let data = tempfile::tempdir().unwrap();
        let host = LocalHost::new(data.path().to_owned(), env!("CARGO_BIN_EXE_drydock").into());
        let host = Arc::new(host.fenced());
        Self::of(data, host, false)
    }

    pub(crate) fn sham(shell: Shell) -> Self {
        let data = tempfile::tempdir().unwrap();
        let host = Arc::new(Sham::new(shell, data.path()).host().1.fenced(true));
        Self::of(data, host, true)
    }

    pub(crate) async fn exec(&self, spec: ExecSpec, inputs: Option<Inputs>) -> Result<Execution, Error> {
        exec(&self.place, &self.lease, spec, inputs, CancellationToken::new(), 1_000_000).await
    }

    pub(crate) async fn run(&self, spec: ExecSpec) -> Said {
        let execution = self.exec(spec, None).await.unwrap();
        soon("the command's end", listen(execution)).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.root.join(name)
    }
}

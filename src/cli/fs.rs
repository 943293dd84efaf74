//! `drydock fs`: files under a lease's root.

use tokio::io::AsyncWriteExt as _;
use tokio_stream::StreamExt as _;
use tonic::Request;

use super::Globals;
use super::acquire::present;
use super::connect::soon;
use super::copy;
use super::exit::{Failure, OK, Result};
use super::output;
use super::words;
use crate::proto::v1;

const PAGE: i32 = 500;

/// What to do with files.
#[derive(Debug, clap::Subcommand)]
pub enum Fs {
    /// Show an entry.
    Stat {
        /// The lease; @ stands for the one in `DRYDOCK_LEASE_ID`.
        lease: String,
        /// Under the lease's root.
        path: String,
        /// Look through a link.
        #[arg(short = 'L', long)]
        follow: bool,
    },
    /// List a directory.
    Ls {
        /// The lease.
        lease: String,
        /// Under the lease's root [default: the root].
        #[arg(default_value = "", hide_default_value = true)]
        path: String,
        /// Levels below.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=100))]
        depth: i32,
    },
    /// Write a file to stdout.
    Read {
        /// The lease.
        lease: String,
        /// Under the lease's root.
        path: String,
        /// First byte.
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
        offset: i64,
        /// How many bytes [default: to the end].
        #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(i64).range(0..))]
        length: i64,
    },
    /// Write stdin to a file; nothing is to be seen of it before it is complete.
    Write {
        /// The lease.
        lease: String,
        /// Under the lease's root.
        path: String,
        /// How it is written.
        #[command(flatten)]
        how: Target,
    },
    /// Make a directory.
    Mkdir {
        /// The lease.
        lease: String,
        /// Under the lease's root.
        path: String,
        /// Also those above; that it is there is fine.
        #[arg(short = 'p', long)]
        parents: bool,
        /// Octal, for example 755.
        #[arg(long, value_name = "MODE", value_parser = mode)]
        mode: Option<u32>,
    },
    /// Remove a file.
    Rm {
        /// The lease.
        lease: String,
        /// Under the lease's root.
        path: String,
        /// A whole tree.
        #[arg(short = 'r', long)]
        recursive: bool,
        /// That it is missing is fine.
        #[arg(short = 'f', long)]
        force: bool,
    },
    /// Rename a file or directory.
    Mv {
        /// The lease.
        lease: String,
        /// From.
        source: String,
        /// To.
        target: String,
        /// Fail when the target exists.
        #[arg(short = 'n', long)]
        no_replace: bool,
    },
}

/// How a file is written.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Target {
    /// Octal, for example 755 [default: as it was, or 644].
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub mode: Option<u32>,
    /// Make the directories above.
    #[arg(short = 'p', long)]
    pub parents: bool,
    /// Fail when it exists.
    #[arg(long)]
    pub create_only: bool,
}

/// Reads permission bits as `chmod` takes them.
fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("{text:?} is not a mode such as 644 or 0755")),
    }
}

/// Runs it.
///
/// # Errors
/// Those of the daemon.
pub async fn run(globals: &Globals, command: Fs) -> Result<u8> {
    match command {
        Fs::Stat { lease, path, follow } => {
            let request = v1::StatFileRequest { lease_id: words::lease(&lease)?, path, follow, ..Default::default() };
            let answer = globals.connect().await?.files().stat_file(soon(request)).await?.into_inner();
            output::object(globals.output, &present(answer.entry)?)?;
        }
        Fs::Ls { lease, path, depth } => list(globals, &lease, path, depth).await?,
        Fs::Read { lease, path, offset, length } => read(globals, &lease, path, offset, length).await?,
        Fs::Write { lease, path, how } => {
            let lease_id = words::lease(&lease)?;
            let daemon = globals.connect().await?;
            let entry = copy::upload(&daemon, tokio::io::stdin(), copy::start(&lease_id, &path, &how)).await?;
            output::object_unless_table(globals.output, &entry)?;
        }
        Fs::Mkdir { lease, path, parents, mode } => {
            let lease_id = words::lease(&lease)?;
            let request = v1::MakeDirectoryRequest { lease_id, path, mode: mode.unwrap_or(0), parents };
            let answer = globals.connect().await?.files().make_directory(soon(request)).await?.into_inner();
            output::object_unless_table(globals.output, &present(answer.entry)?)?;
        }
        Fs::Rm { lease, path, recursive, force } => {
            let lease_id = words::lease(&lease)?;
            let request = v1::RemoveFileRequest { lease_id, path, recursive, ignore_missing: force };
            globals.connect().await?.files().remove_file(soon(request)).await?;
        }
        Fs::Mv { lease, source, target, no_replace } => {
            let lease_id = words::lease(&lease)?;
            let request = v1::RenameFileRequest { lease_id, source_path: source, target_path: target, no_replace };
            let answer = globals.connect().await?.files().rename_file(soon(request)).await?.into_inner();
            output::object_unless_table(globals.output, &present(answer.entry)?)?;
        }
    }
    Ok(OK)
}

async fn list(globals: &Globals, lease: &str, path: String, depth: i32) -> Result<()> {
    let lease_id = words::lease(lease)?;
    let daemon = globals.connect().await?;
    let mut all = v1::ListDirectoryResponse::default();
    loop {
        let request = v1::ListDirectoryRequest {
            lease_id: lease_id.clone(),
            path: path.clone(),
            page_size: PAGE,
            page_token: all.next_page_token,
            depth,
            ..Default::default()
        };
        let page = daemon.files().list_directory(soon(request)).await?.into_inner();
        all.entries.extend(page.entries);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return output::list(globals.output, &all);
        }
    }
}

async fn read(globals: &Globals, lease: &str, path: String, offset: i64, length: i64) -> Result<()> {
    let request = v1::ReadFileRequest { lease_id: words::lease(lease)?, path, offset, length, ..Default::default() };
    let daemon = globals.connect().await?;
    let mut parts = daemon.files().read_file(Request::new(request)).await?.into_inner();
    let mut stdout = tokio::io::stdout();
    while let Some(part) = parts.next().await {
        stdout.write_all(&part?.data).await.map_err(|error| Failure::io("stdout", &error))?;
    }
    stdout.flush().await.map_err(|error| Failure::io("stdout", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!((mode("644"), mode("0755")), (Ok(0o644), Ok(0o755)));
        assert!(mode("888").is_err() && mode("1777").is_err() && mode("").is_err());
    }
}

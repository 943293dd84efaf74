//! The static web server itself: the hidden subcommand `__httpd` of our binary.
//!
//! Files below one folder, by GET and HEAD; `index.html` for a folder. Links are followed as long as they stay inside,
//! names that begin with a dot are not served (a checkout's `.git` among them).

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use clap::Parser;
use http::header::{ALLOW, HOST, LOCATION};
use http::{Method, Request, StatusCode};
use tokio::net::TcpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

use crate::error::{Error, Reason, Result};

/// The first word of its command line.
pub const SUBCOMMAND: &str = "__httpd";

/// Running answers get this long after TERM.
const DRAIN: Duration = Duration::from_secs(2);

/// What to serve, and where.
#[derive(Debug, Clone, Parser)]
#[command(name = SUBCOMMAND)]
pub struct Args {
    /// What is served; it may not exist yet.
    #[arg(long)]
    root: PathBuf,
    /// Links may lead anywhere in here; the root unless given.
    #[arg(long)]
    within: Option<PathBuf>,
    /// The one address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// The name it goes by; requests for others are refused.
    #[arg(long)]
    server_name: Option<String>,
    /// Where the pid is written once it listens.
    #[arg(long)]
    pid_file: Option<PathBuf>,
}

impl Args {
    /// Reads the words after the subcommand.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub fn parse_words(words: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let words = std::iter::once(OsString::from(SUBCOMMAND)).chain(words);
        Self::try_parse_from(words).map_err(|error| Error::invalid(error.to_string()))
    }
}

/// The subcommand: its own small runtime, complaints on stderr.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = match (runtime, Args::parse_words(words)) {
        (Ok(runtime), Ok(args)) => runtime.block_on(serve(args)),
        (Err(error), _) => Err(Error::internal("cannot start", error)),
        (_, Err(error)) => Err(error),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", crate::error::report(&error));
            ExitCode::FAILURE
        }
    }
}

/// Serves until TERM or INT.
///
/// # Errors
/// `COMMAND_FAILED` when it cannot listen.
pub async fn serve(args: Args) -> Result<()> {
    let failed = |what: String| move |error: std::io::Error| Error::new(Reason::CommandFailed, what).because(error);
    let socket = if args.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
        .map_err(failed("cannot make a socket".to_owned()))?;
    // Else a restart would have to wait for the old connections to time out.
    socket.set_reuseaddr(true).map_err(failed("cannot set up the socket".to_owned()))?;
    socket.bind(args.listen).map_err(failed(format!("cannot listen on {}", args.listen)))?;
    let listener = socket.listen(1024).map_err(failed(format!("cannot listen on {}", args.listen)))?;

    let mut terminate = signal(SignalKind::terminate()).map_err(failed("cannot watch for signals".to_owned()))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("cannot watch for signals".to_owned()))?;
    // Every file is read afresh, so there is nothing to reopen; without this the signal would end us.
    let mut hangup = signal(SignalKind::hangup()).map_err(failed("cannot watch for signals".to_owned()))?;
    tokio::spawn(async move { while hangup.recv().await.is_some() {} });

    if let Some(file) = &args.pid_file {
        let fresh = file.with_extension("new");
        let write = std::fs::write(&fresh, std::process::id().to_string()).and_then(|()| std::fs::rename(&fresh, file));
        write.map_err(failed(format!("cannot write {}", file.display())))?;
    }

    let (stopping, stopped) = tokio::sync::watch::channel(());
    let pid_file = args.pid_file.clone();
    let router = Router::new().fallback(answer).with_state(Arc::new(args));
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        drop(stopping);
    });
    let deadline = async move {
        let mut stopped = stopped;
        // Ends when the sender is dropped.
        while stopped.changed().await.is_ok() {}
        let _ = tokio::time::timeout(DRAIN, std::future::pending::<()>()).await;
    };
    tokio::select! {
        ended = server.into_future() => ended.map_err(failed("the web server failed".to_owned()))?,
        () = deadline => {}
    }
    if let Some(file) = pid_file {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

async fn answer(State(args): State<Arc<Args>>, request: Request<Body>) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET, HEAD")]).into_response();
    }
    if !is_meant(&args, &request) {
        return plain(StatusCode::MISDIRECTED_REQUEST);
    }
    let path = request.uri().path().to_owned();
    let found = tokio::task::spawn_blocking(move || find(&args, &path)).await;
    match found {
        Ok(Found::File(file)) => match ServeFile::new(file).oneshot(request).await {
            Ok(response) => response.into_response(),
            Err(never) => match never {},
        },
        // With a slash at the end relative links work.
        Ok(Found::Folder) => {
            let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
            // Two slashes at the start would name another server.
            let path = request.uri().path().trim_start_matches('/');
            (StatusCode::PERMANENT_REDIRECT, [(LOCATION, format!("/{path}/{query}"))]).into_response()
        }
        Ok(Found::Nothing) => plain(StatusCode::NOT_FOUND),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn plain(status: StatusCode) -> Response {
    (status, format!("{status}\n")).into_response()
}

/// Another site's name must not read this one, as a page elsewhere might try with a name that it makes point here.
fn is_meant(args: &Args, request: &Request<Body>) -> bool {
    let Some(name) = &args.server_name else { return true };
    let Some(host) = request.headers().get(HOST).and_then(|host| host.to_str().ok()) else { return false };
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    host.eq_ignore_ascii_case(name) || host == args.listen.ip().to_string() || host == "localhost"
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    File(PathBuf),
    Folder,
    Nothing,
}

/// The file of a path, with all links looked through.
fn find(args: &Args, path: &str) -> Found {
    let Ok(path) = percent_encoding::percent_decode_str(path).decode_utf8() else { return Found::Nothing };
    let wants_folder = path.ends_with('/');
    let mut file = args.root.clone();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let is_plain = matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        let is_hidden = part.starts_with('.') && part != ".well-known";
        if !is_plain || is_hidden || part.contains('\0') {
            return Found::Nothing;
        }
        file.push(part);
    }
    let within = args.within.as_ref().unwrap_or(&args.root);
    let Ok(within) = within.canonicalize() else { return Found::Nothing };
    let resolve = |file: &Path| file.canonicalize().ok().filter(|file| file.starts_with(&within));
    let Some(found) = resolve(&file) else { return Found::Nothing };
    if !found.is_dir() {
        return if found.is_file() && !wants_folder { Found::File(found) } else { Found::Nothing };
    }
    if !wants_folder {
        return Found::Folder;
    }
    match resolve(&found.join("index.html")) {
        Some(index) if index.is_file() => Found::File(index),
        _ => Found::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn args(root: &Path, within: &Path) -> Args {
        Args {
            root: root.to_owned(),
            within: Some(within.to_owned()),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            server_name: None,
            pid_file: None,
        }
    }

    #[test]
    fn only_what_lies_inside_is_found() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "no").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let within = folder.path().canonicalize().unwrap();
        let root = within.join("public");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::write(root.join("index.html"), "hello").unwrap();
        fs::write(root.join("a b.txt"), "space").unwrap();
        fs::write(root.join(".git/config"), "no").unwrap();
        fs::write(within.join("shared.txt"), "shared").unwrap();
        symlink(outside.path().join("secret"), root.join("leak")).unwrap();
        symlink("../shared.txt", root.join("inside")).unwrap();
        let args = args(&root, &within);

        assert_eq!(find(&args, "/"), Found::File(root.join("index.html")));
        assert_eq!(find(&args, "/a%20b.txt"), Found::File(root.join("a b.txt")));
        assert_eq!(find(&args, "/inside"), Found::File(within.join("shared.txt")));
        assert_eq!(find(&args, "/sub"), Found::Folder);
        for path in [
            "/sub/",
            "/missing",
            "/leak",
            "/.git/config",
            "/../shared.txt",
            "/%2e%2e/shared.txt",
            "/sub/..%2f..%2fshared.txt",
            "/index.html/",
            "/index.html%00",
            "/%ff",
        ] {
            assert_eq!(find(&args, path), Found::Nothing, "{path}");
        }
    }

    #[test]
    fn a_root_that_leads_out_serves_nothing() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("index.html"), "no").unwrap();
        let within = tempfile::tempdir().unwrap();
        let root = within.path().join("public");
        assert_eq!(find(&args(&root, within.path()), "/"), Found::Nothing);
        symlink(outside.path(), &root).unwrap();
        assert_eq!(find(&args(&root, within.path()), "/"), Found::Nothing);
    }
}

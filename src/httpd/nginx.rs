//! Driver `nginx`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use super::found::Found;
use super::installed::{Server, names, quoted};
use super::instance::{EXTRA, LOG, SERVER_PID};
use super::{Seat, shared};
use crate::error::Result;

/// The driver.
pub(super) struct Nginx;

const MAIN: &str = "nginx.conf";
const MIME: &str = "/etc/nginx/mime.types";

/// For hosts without [`MIME`].
const TYPES: &str = "types {
        text/html html htm; text/css css; text/plain txt log; text/xml xml; application/javascript js mjs;
        application/json json map; application/pdf pdf; application/wasm wasm; application/zip zip;
        image/png png; image/jpeg jpeg jpg; image/gif gif; image/svg+xml svg; image/webp webp; image/x-icon ico;
        font/woff woff; font/woff2 woff2; audio/mpeg mp3; video/mp4 mp4; video/webm webm;
    }";

impl Server for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["nginx"]
    }

    fn package(&self) -> &'static str {
        "nginx-light"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[MIME, "/etc/nginx/sites-enabled", "/etc/nginx/conf.d"]
    }

    fn label(&self) -> &'static str {
        "nginx version: nginx/"
    }

    fn main(&self, seat: &Seat, found: &Found) -> Result<(&'static str, String)> {
        let in_folder = |name: &str| quoted(&seat.folder.join(name));
        // Workers of root's server would else be nobody, who cannot read what is ours alone.
        let user = if found.is_root { format!("user {} {};\n", found.user, found.group) } else { String::new() };
        let types = if found.there.iter().any(|path| path == MIME) { format!("include {MIME};") } else { TYPES.into() };
        // A server that was built without a module does not know its words; one with it would make a folder in /var.
        let mut temporary = String::new();
        for (word, module) in [
            ("client_body", None),
            ("proxy", Some("http_proxy")),
            ("fastcgi", Some("http_fastcgi")),
            ("uwsgi", Some("http_uwsgi")),
            ("scgi", Some("http_scgi")),
        ] {
            let is_there = module.is_none_or(|module| !found.about.contains(&format!("--without-{module}_module")));
            if is_there {
                let _ = writeln!(temporary, "    {word}_temp_path {};", in_folder(&format!("{word}-temp"))?);
            }
        }
        let site = self.site(seat, &seat.folder.join(EXTRA))?;
        let text = format!(
            "daemon off;\n{user}worker_processes 1;\npid {pid};\nerror_log {log} warn;\n\
             events {{\n    worker_connections 512;\n}}\n\
             http {{\n    {types}\n    default_type application/octet-stream;\n    access_log off;\n    log_not_found off;\n    \
             server_tokens off;\n    sendfile on;\n{temporary}{site}}}\n",
            pid = in_folder(SERVER_PID)?,
            log = in_folder(LOG)?,
        );
        Ok((MAIN, text))
    }

    fn site(&self, seat: &Seat, extra: &Path) -> Result<String> {
        let site = &seat.site;
        let listen = site.listens_on();
        let (others, name) = match names(site)? {
            None => (String::new(), String::new()),
            Some(names) => (
                format!("server {{\n    listen {listen} default_server;\n    server_name _;\n    return 421;\n}}\n"),
                format!("    server_name {names};\n"),
            ),
        };
        // Quotes count at the start of a word only, so they go round all of it.
        let mut from = OsString::from("from=");
        from.push(&site.within);
        Ok(format!(
            "{others}server {{\n    listen {listen};\n{name}    root {root};\n    index index.html;\n    \
             absolute_redirect off;\n    disable_symlinks on {from};\n    \
             location ~ \"/\\.(?!well-known(/|$))\" {{\n        return 404;\n    }}\n    include {extra};\n}}\n",
            root = quoted(&site.document_root)?,
            from = quoted(Path::new(&from))?,
            extra = quoted(extra)?,
        ))
    }

    fn test(&self, seat: &Seat, found: &Found) -> Vec<String> {
        command(seat, found, &["-t"])
    }

    fn serve(&self, seat: &Seat, found: &Found) -> Vec<String> {
        command(seat, found, &[])
    }

    fn graceful(&self) -> &'static str {
        "HUP"
    }

    fn retiring(&self) -> Option<&'static str> {
        Some("is shutting down")
    }

    fn shared(&self, found: &Found) -> shared::Ways {
        let program = &found.program;
        shared::Ways {
            folder: found
                .there
                .iter()
                .find(|path| path.ends_with("sites-enabled") || path.ends_with("conf.d"))
                .cloned(),
            test: vec![program.clone(), "-t".to_owned()],
            reload: vec![program.clone(), "-s".to_owned(), "reload".to_owned()],
        }
    }
}

fn command(seat: &Seat, found: &Found, more: &[&str]) -> Vec<String> {
    let folder = format!("{}/", seat.folder.display());
    let main = seat.folder.join(MAIN).display().to_string();
    let mut words = vec!["-p", &folder, "-c", &main];
    // Before it has read its configuration it would complain into a file that is not ours.
    let version: Vec<u32> = found.version("nginx/").split('.').map_while(|part| part.parse().ok()).collect();
    if version >= vec![1, 19, 5] {
        words.extend(["-e", "stderr"]);
    }
    words.extend(more);
    found.words(&words)
}

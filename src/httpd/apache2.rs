//! Driver `apache2`: httpd of the Apache Software Foundation, under either of its names.

use std::fmt::Write as _;
use std::path::Path;

use super::found::{Drop, Found};
use super::installed::{Server, names, quoted};
use super::instance::{EXTRA, LOG, SERVER_PID};
use super::{Seat, shared};
use crate::error::{Error, Reason, Result};

/// The driver.
pub(super) struct Apache2;

const MAIN: &str = "apache2.conf";

/// Where modules are: Debian, Fedora, Arch, SUSE, its own build.
const MODULES: [&str; 6] = [
    "/usr/lib/apache2/modules/mod_dir.so",
    "/usr/lib64/httpd/modules/mod_dir.so",
    "/usr/lib/httpd/modules/mod_dir.so",
    "/usr/lib64/apache2/mod_dir.so",
    "/usr/lib/apache2/mod_dir.so",
    "/usr/local/apache2/modules/mod_dir.so",
];

/// For hosts without a list of types.
const TYPES: [(&str, &str); 14] = [
    ("text/html", ".html .htm"),
    ("text/css", ".css"),
    ("text/plain", ".txt .log"),
    ("text/xml", ".xml"),
    ("application/javascript", ".js .mjs"),
    ("application/json", ".json .map"),
    ("application/pdf", ".pdf"),
    ("application/wasm", ".wasm"),
    ("image/png", ".png"),
    ("image/jpeg", ".jpeg .jpg"),
    ("image/gif", ".gif"),
    ("image/svg+xml", ".svg"),
    ("image/webp", ".webp"),
    ("font/woff2", ".woff2"),
];

impl Server for Apache2 {
    fn name(&self) -> &'static str {
        "apache2"
    }

    fn programs(&self) -> &'static [&'static str] {
        &["apache2", "httpd"]
    }

    fn package(&self) -> &'static str {
        "apache2-bin"
    }

    fn marks(&self) -> &'static [&'static str] {
        &[
            MODULES[0],
            MODULES[1],
            MODULES[2],
            MODULES[3],
            MODULES[4],
            MODULES[5],
            "/etc/mime.types",
            "/etc/apache2/mime.types",
            "/etc/httpd/conf/mime.types",
            "/etc/apache2/sites-enabled",
            "/etc/httpd/conf.d",
            "/etc/apache2/vhosts.d",
            "/usr/sbin/apache2ctl",
            "/usr/sbin/apachectl",
        ]
    }

    fn label(&self) -> &'static str {
        "Server version: Apache/"
    }

    fn refuses_root(&self) -> bool {
        true
    }

    fn main(&self, seat: &Seat, found: &Found) -> Result<(&'static str, String)> {
        let Some(modules) = found.there.iter().find_map(|path| path.strip_suffix("/mod_dir.so")) else {
            let why = format!("{} is installed without its modules; looked for {}", found.program, MODULES.join(", "));
            return Err(Error::new(Reason::HttpdConfigInvalid, why));
        };
        let folder = quoted(&seat.folder)?;
        let mut text = format!(
            "ServerRoot {folder}\nDefaultRuntimeDir {folder}\nPidFile {pid}\nErrorLog {log}\nLogLevel warn\n\
             Mutex pthread default\nServerName localhost\nServerTokens Prod\nServerSignature Off\n",
            pid = quoted(&seat.folder.join(SERVER_PID))?,
            log = quoted(&seat.folder.join(LOG))?,
        );
        // What is compiled in must not be loaded again.
        let mut load = |name: &str| {
            let _ = writeln!(
                text,
                "<IfModule !{name}_module>\n    LoadModule {name}_module {modules}/mod_{name}.so\n</IfModule>"
            );
        };
        for name in ["unixd", "authz_core", "alias", "dir", "mime"] {
            load(name);
        }
        let _ = writeln!(
            text,
            "<IfModule !mpm_prefork_module>\n<IfModule !mpm_worker_module>\n<IfModule !mpm_event_module>\n    \
             LoadModule mpm_event_module {modules}/mod_mpm_event.so\n</IfModule>\n</IfModule>\n</IfModule>"
        );
        if found.drop == Some(Drop::SetPriv) {
            text.push_str("User #65534\nGroup #65534\n");
        }
        text.push_str("<IfModule mpm_event_module>\n    StartServers 1\n    ServerLimit 4\n    ThreadsPerChild 25\n");
        text.push_str("    MaxRequestWorkers 50\n    MinSpareThreads 5\n    MaxSpareThreads 50\n</IfModule>\n");
        let types = found.there.iter().find(|path| path.ends_with("mime.types")).map_or("/dev/null", String::as_str);
        let _ = writeln!(text, "TypesConfig {types}");
        for (name, endings) in TYPES {
            let _ = writeln!(text, "AddType {name} {endings}");
        }
        text.push_str(&self.site(seat, &seat.folder.join(EXTRA))?);
        Ok((MAIN, text))
    }

    fn site(&self, seat: &Seat, extra: &Path) -> Result<String> {
        let site = &seat.site;
        let port = site.port;
        let (others, name) = match names(site)? {
            None => (String::new(), String::new()),
            Some(names) => (
                format!("<VirtualHost *:{port}>\n    ServerName others.invalid\n    Redirect 421 /\n</VirtualHost>\n"),
                // The first word is the name itself.
                names.replacen(' ', "\n    ServerAlias ", 1),
            ),
        };
        let name = if name.is_empty() { name } else { format!("    ServerName {name}\n") };
        Ok(format!(
            "Listen {listen}\n{others}<VirtualHost *:{port}>\n{name}    DocumentRoot {root}\n    \
             DirectoryIndex index.html\n    \
             <Directory \"/\">\n        AllowOverride None\n        Options FollowSymLinks\n        Require all denied\n    \
             </Directory>\n    \
             <Directory {within}>\n        Options None\n        Require all granted\n    </Directory>\n    \
             RedirectMatch 404 \"/\\.(?!well-known(/|$))\"\n    Include {extra}\n</VirtualHost>\n",
            listen = site.listens_on(),
            root = quoted(&site.document_root)?,
            within = quoted(&site.within)?,
            extra = quoted(extra)?,
        ))
    }

    fn test(&self, seat: &Seat, found: &Found) -> Vec<String> {
        command(seat, found, &["-t"])
    }

    fn serve(&self, seat: &Seat, found: &Found) -> Vec<String> {
        command(seat, found, &["-D", "FOREGROUND"])
    }

    fn graceful(&self) -> &'static str {
        "USR1"
    }

    fn retiring(&self) -> Option<&'static str> {
        None
    }

    fn shared(&self, found: &Found) -> shared::Ways {
        let has = |end: &str| found.there.iter().find(|path| path.ends_with(end)).cloned();
        // Debian's program needs variables that only its control program sets.
        let control = has("/apache2ctl").or_else(|| has("/apachectl")).unwrap_or_else(|| found.program.clone());
        shared::Ways {
            folder: has("/sites-enabled").or_else(|| has("/conf.d")).or_else(|| has("/vhosts.d")),
            test: vec![control.clone(), "-t".to_owned()],
            reload: vec![control, "-k".to_owned(), "graceful".to_owned()],
        }
    }
}

fn command(seat: &Seat, found: &Found, more: &[&str]) -> Vec<String> {
    let folder = seat.folder.display().to_string();
    let main = seat.folder.join(MAIN).display().to_string();
    found.words(&[&["-d", &folder, "-f", &main], more].concat())
}

//! nginx and apache2 by the command line and so over the RPCs: a sandcastle whose page they serve, and sites of the
//! host's own servers.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::blueprints::servers::{is_installed, processes};
use crate::end_to_end::Up;

/// The whole answer.
pub(crate) fn fetch(uri: &str) -> std::io::Result<String> {
    let (address, path) = uri.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A repository whose `make site` makes a page.
fn repository(up: &Up) -> String {
    let path = up.folder.path().join("site");
    std::fs::create_dir(&path).unwrap();
    let makefile = "site:\n\tmkdir -p public\n\techo '<h1>built</h1>' >public/index.html\nclean:\n\trm -rf public\n";
    std::fs::write(path.join("Makefile"), makefile).unwrap();
    for words in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "The first commit"]] {
        let identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"];
        assert!(Command::new("git").arg("-C").arg(&path).args(identity).args(words).status().unwrap().success());
    }
    path.display().to_string()
}

#[test]
fn a_sandcastle_stands_on_either_server() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    for server in ["nginx", "apache2"].into_iter().filter(|server| is_installed(server)) {
        let up = Up::start(&[]);
        up.ok(&["blueprint", "apply", "-f", &format!("{examples}/webroot-{server}.yaml")]);
        up.ok(&["blueprint", "apply", "-f", &format!("{examples}/sandcastle.yaml")]);
        up.ok(&["blueprint", "disable", "webroot"]);
        let attribute = format!("repository={}", repository(&up));
        let lease = up.ok(&["lease", "acquire", "sandcastle", "--attr", &attribute]).trim().to_owned();
        let uri = up.json(&["lease", "get", &lease])["facts"]["uri"].as_str().unwrap().to_owned();
        let answer = fetch(&uri).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("<h1>built</h1>"), "{server}: {answer}");

        let before = up.json(&["httpd", "status", &lease]);
        assert_eq!((before["driver"].as_str(), before["running"].as_bool()), (Some(server), Some(true)), "{before}");
        let reloaded = up.json(&["httpd", "reload", &lease]);
        assert_eq!(reloaded["pid"], before["pid"], "{server}");
        let restarted = up.json(&["httpd", "restart", &lease]);
        assert!(restarted["running"] == true && restarted["pid"] != before["pid"], "{server}: {restarted}");
        assert_eq!(up.ok(&["httpd", "uri", &lease]).trim(), uri);
        up.ok(&["exec", &lease, "--", "sh", "-c", "echo '<h1>changed</h1>' >public/index.html"]);
        assert!(fetch(&uri).unwrap().contains("<h1>changed</h1>"));
        up.ok(&["httpd", "stop", &lease]);
        assert!(fetch(&uri).is_err());
        up.ok(&["httpd", "start", &lease]);
        assert!(fetch(&uri).unwrap().contains("<h1>changed</h1>"));

        let sites = up.json(&["resource", "list", "--filter", "resource_type = webroot"]);
        let id = sites["resources"][0]["id"].as_str().unwrap().to_owned();
        let folder = up.data().join("resources").join(format!("{id}.httpd"));
        assert!(!processes(&folder, &id).is_empty());
        up.ok(&["lease", "release", "--wait", &lease]);
        up.assert_nothing_left();
        assert!(fetch(&uri).is_err());
        assert_eq!(processes(&folder, &id), [""; 0], "{server}");
    }
}

/// The machine's own servers, as their packages configure them, in namespaces of mounts and processes.
#[test]
fn the_hosts_own_servers_take_sites_in() {
    if !["nginx", "apache2", "apache2ctl"].into_iter().all(is_installed) {
        return;
    }
    let spaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let may = Command::new("unshare").args(spaces).args(["mount", "--make-rprivate", "/"]).status();
    if !may.is_ok_and(|status| status.success()) || !rustix::process::getuid().is_root() {
        let _ = writeln!(std::io::stderr(), "not run: sites of the host's own servers: that needs root and namespaces");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/host_servers.sh");
    let up = Up::start_by(&[&["unshare"][..], &spaces, &["sh", script, &port]].concat(), &[]);
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711)).unwrap();
    // The workers of Debian's apache2 are www-data: they are let through, as the error says that they must be.
    std::fs::create_dir_all(up.data().join("resources")).unwrap();
    for folder in [up.folder.path(), &up.data(), &up.data().join("resources")] {
        open(folder);
    }
    for server in ["nginx", "apache2"] {
        let blueprint = format!("name: {server}\nkind: webroot\nconfig: {{driver: {server}, mode: site}}\n");
        std::fs::write(up.folder.path().join("blueprint.yaml"), blueprint).unwrap();
        up.ok(&["blueprint", "apply", "-f", "blueprint.yaml"]);
        let lease = up.ok(&["lease", "acquire", "webroot", "--blueprint", server]).trim().to_owned();
        let facts = up.json(&["lease", "get", &lease])["facts"].clone();
        let (uri, path) = (facts["uri"].as_str().unwrap(), Path::new(facts["path"].as_str().unwrap()));
        std::fs::write(path.join("index.html"), server).unwrap();
        assert!(fetch(uri).unwrap().ends_with(server), "{server}");
        let restarted = up.json(&["httpd", "restart", &lease]);
        assert_eq!((restarted["driver"].as_str(), restarted["running"].as_bool()), (Some(server), Some(true)));
        assert!(fetch(uri).unwrap().ends_with(server), "{server}");
        let sites = up.folder.path().join(server).join("sites-enabled");
        assert_eq!(std::fs::read_dir(&sites).unwrap().count(), 1);
        up.ok(&["lease", "release", "--wait", &lease]);
        assert_eq!(std::fs::read_dir(&sites).unwrap().count(), 0);
        assert!(fetch(uri).is_err());
    }
    up.assert_nothing_left();
}

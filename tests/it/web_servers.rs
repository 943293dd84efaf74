//! A sandcastle whose page nginx or apache2 serves, by the command line and so over the RPCs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use crate::blueprints::servers::{is_installed, processes};
use crate::end_to_end::Up;

/// The whole answer.
fn fetch(uri: &str) -> std::io::Result<String> {
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

//! `webroot` as a site of the host's own server: here one that the test starts, with a configuration of its own, so that
//! the machine's own server is left alone.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use drydock::httpd::{Operation, folder_of};
use drydock::interface::httpd;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use super::servers::{is_installed, operate, site, until, version, version_snippet};
use super::webroots::fetch;
use super::yard::{Yard, list};

/// "The host's own server".
struct Own {
    folder: TempDir,
    server: &'static str,
    child: Child,
}

impl Own {
    async fn start(server: &'static str) -> Self {
        Self::serving_as(server, "root").await
    }

    /// nginx, when we are root, with workers of this user.
    async fn serving_as(server: &'static str, user: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        std::fs::create_dir(folder.path().join("sites")).unwrap();
        let is_root = rustix::process::getuid().is_root();
        let text = if server == "nginx" {
            format!(
                "{}pid {path}/pid; error_log {path}/log; daemon off; events {{}} http {{ access_log off; \
                 client_body_temp_path {path}/t1; proxy_temp_path {path}/t2; fastcgi_temp_path {path}/t3; \
                 uwsgi_temp_path {path}/t4; scgi_temp_path {path}/t5; include {path}/sites/*; }}",
                if is_root { format!("user {user};") } else { String::new() }
            )
        } else {
            let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
            let load = ["authz_core", "alias", "dir", "mime", "mpm_event"]
                .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"));
            format!(
                "ServerRoot {path}\nDefaultRuntimeDir {path}\nPidFile {path}/pid\nErrorLog {path}/log\n\
                     ServerName localhost\nListen 127.0.0.1:{port}\n{}TypesConfig /dev/null\n\
                     IncludeOptional {path}/sites/*.conf\n",
                load.concat()
            )
        };
        std::fs::write(folder.path().join("conf"), text).unwrap();
        let words = words(server, folder.path(), if server == "nginx" { &[] } else { &["-D", "FOREGROUND"] });
        let child = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap();
        let own = Self { folder, server, child };
        let pid = own.folder.path().join("pid");
        until("the host's server is up", async || std::fs::read_to_string(&pid).is_ok_and(|pid| pid.ends_with('\n')))
            .await;
        own
    }

    fn sites(&self) -> PathBuf {
        self.folder.path().join("sites")
    }

    fn config(&self) -> Value {
        let graceful: &[&str] = if self.server == "nginx" { &["-s", "reload"] } else { &["-k", "graceful"] };
        json!({
            "driver": self.server,
            "mode": "site",
            "sites_folder": self.sites(),
            "test_command": words(self.server, self.folder.path(), &["-t"]),
            "reload_command": words(self.server, self.folder.path(), graceful),
        })
    }

    fn end(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.end();
    }
}

/// The server's command line. Apache does not serve as root, so root becomes somebody else of the same rights.
fn words(server: &str, folder: &Path, more: &[&str]) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let conf = format!("{folder}/conf");
    let mut words = Vec::new();
    if server == "apache2" && rustix::process::getuid().is_root() {
        words.extend(["unshare", "--user", "--map-user=65534", "--map-group=65534"]);
    }
    let program = format!("/usr/sbin/{server}");
    words.push(&program);
    words.extend(if server == "nginx" { ["-p", folder, "-c", &conf] } else { ["-d", folder, "-f", &conf] });
    words.extend(more);
    words.into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_site_of_the_hosts_server_comes_goes_and_rolls_back() {
    for server in ["nginx", "apache2"].into_iter().filter(|server| is_installed(server)) {
        let yard = Yard::new();
        let own = Own::start(server).await;
        let more = yard.folder.path().join("more.conf");
        std::fs::write(&more, version_snippet(server, "one")).unwrap();
        let mut config = own.config();
        config["config_file"] = json!(more);
        let first = site(&yard, config, &[]).await;
        let second = site(&yard, own.config(), &[("server_name", "second.example")]).await;
        for (site, text) in [(&first, "first"), (&second, "second")] {
            std::fs::write(site.root.join("index.html"), text).unwrap();
            assert_eq!(fetch(&site.address, "/", "localhost").await.1, text, "{server}");
        }
        assert!(fetch(&second.address, "/", "first.example").await.0.starts_with("HTTP/1.1 421"));
        assert!(version(&first.address).await.contains("one"));
        assert_eq!(list(&own.sites()).len(), 2);
        let place = yard.place(&first.ctx, "httpd").unwrap();
        let status = httpd::status(&place).await.unwrap();
        assert!(status.running && status.pid.is_none() && status.driver == server, "{status:?}");

        std::fs::write(&more, version_snippet(server, "two")).unwrap();
        let (names, _) = operate(&yard, &first.ctx, Operation::Reload).await.unwrap();
        assert_eq!(names, "config-test reload probe done");
        until("the new is taken in", async || version(&first.address).await.contains("two")).await;

        std::fs::write(&more, "nonsense here;\n").unwrap();
        for operation in [Operation::Reload, Operation::Restart] {
            let error = operate(&yard, &first.ctx, operation).await.unwrap_err();
            assert_eq!(error.reason.as_str(), "HTTPD_CONFIG_INVALID", "{error}");
            assert!(error.message.contains("nonsense"), "{server}: {error}");
        }
        assert!(version(&first.address).await.contains("two"), "{server}: the last good one is back");
        // The other one is not in the way of a site that is in order.
        let (names, _) = operate(&yard, &second.ctx, Operation::Restart).await.unwrap();
        assert_eq!(names, "config-test stop config-test reload probe done");
        assert_eq!(fetch(&second.address, "/", "localhost").await.1, "second");

        std::fs::write(&more, "").unwrap();
        assert_eq!(operate(&yard, &first.ctx, Operation::Stop).await.unwrap().0, "stop done");
        assert!(TcpStream::connect(&first.address).await.is_err());
        assert_eq!(fetch(&second.address, "/", "localhost").await.1, "second");
        let blueprint = yard.registry.find("webroot").unwrap();
        assert_eq!(blueprint.check(&first.ctx).await.findings.len(), 1);
        assert!(operate(&yard, &first.ctx, Operation::Start).await.unwrap().1.running);
        assert_eq!(fetch(&first.address, "/", "localhost").await.1, "first");

        yard.end_all().await;
        assert_eq!(list(&own.sites()), Vec::<PathBuf>::new(), "{server}");
        for site in [&first, &second] {
            assert!(TcpStream::connect(&site.address).await.is_err());
            assert!(!folder_of(&site.root).exists());
        }
    }
}

#[tokio::test]
async fn a_site_that_does_not_pass_is_never_left_behind() {
    for server in ["nginx", "apache2"].into_iter().filter(|server| is_installed(server)) {
        let yard = Yard::new();
        let mut own = Own::start(server).await;
        let mut config = own.config();
        config["config_snippet"] = json!("nonsense here;");
        let mut ctx = yard.context("webroot", config, &[]);
        let failure = yard.build(&mut ctx).await.unwrap_err();
        assert!(failure.permanent && failure.message.contains("nonsense"), "{failure:?}");
        assert_eq!(list(&own.sites()), Vec::<PathBuf>::new());
        yard.end(&ctx).await;

        // A server that is down serves nothing: what is to go can go.
        site(&yard, own.config(), &[]).await;
        assert_eq!(list(&own.sites()).len(), 1);
        own.end();
        yard.end_all().await;
        assert_eq!(list(&own.sites()), Vec::<PathBuf>::new(), "{server}");
    }
}

#[tokio::test]
async fn workers_that_may_not_go_into_the_folder_are_named() {
    if !is_installed("nginx") {
        return;
    }
    if !rustix::process::getuid().is_root() {
        // Not by println!, which the test harness would keep to itself.
        let _ = writeln!(std::io::stderr(), "not run: workers of another user: not root");
        return;
    }
    let yard = Yard::new();
    let own = Own::serving_as("nginx", "nobody nogroup").await;
    let mut ctx = yard.context("webroot", own.config(), &[]);
    let failure = yard.build(&mut ctx).await.unwrap_err();
    assert!(failure.permanent, "{failure:?}");
    for word in ["serves as nobody", "setfacl -m u:nobody:x", "mode instance"] {
        assert!(failure.message.contains(word), "{word}: {failure:?}");
    }
    assert_eq!(list(&own.sites()), Vec::<PathBuf>::new(), "it is withdrawn");
    // Let in, they serve.
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(yard.folder.path()).status();
    assert!(open.unwrap().success());
    let facts = yard.build(&mut ctx).await.unwrap();
    std::fs::write(PathBuf::from(&facts["path"]).join("index.html"), "open").unwrap();
    let address = format!("{}:{}", facts["address"], facts["port"]);
    assert_eq!(fetch(&address, "/", "localhost").await.1, "open");
    yard.end_all().await;
    assert_eq!(list(&own.sites()), Vec::<PathBuf>::new());
}

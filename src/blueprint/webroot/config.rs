//! What a blueprint of webroots says of its servers.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::is_plain;
use crate::error::{Error, Result};
use crate::httpd::{Shared, Site};
use crate::model::{Field, FieldType, kind};

const INSTANCE: &str = "instance";
const SITE: &str = "site";
/// Where a site listens unless the blueprint says.
const LOOPBACK: &str = "127.0.0.1";

/// Its fields.
pub(super) const FIELDS: &[Field] = &[
    Field::optional(
        "driver",
        FieldType::Choice(&["builtin", "nginx", "apache2"]),
        "The web server; unless given, builtin where drydock is installed (the local host), else nginx or apache2, whichever the host has.",
    ),
    Field::optional(
        "listen",
        FieldType::Text,
        "The IP address that sites listen on, 127.0.0.1 unless given; 0.0.0.0 or :: is every address of the host; then the URI names the reachable_address of a box, else its address.",
    ),
    Field::optional(
        "mode",
        FieldType::Choice(&[INSTANCE, SITE]),
        "instance, the default: a server of its own, without privileges; site: a site of the host's own server.",
    ),
    Field::optional(
        "config_snippet",
        FieldType::Text,
        "More configuration, in the language of the driver, within the site's server or virtual host.",
    ),
    Field::optional(
        "config_file",
        FieldType::Text,
        "An absolute path on the host: a file with more configuration, taken in with each start, restart and reload.",
    ),
    Field::optional(
        "sites_folder",
        FieldType::Text,
        "Mode site: where the host's server reads sites from; unless given, where its package has it.",
    ),
    Field::optional(
        "test_command",
        FieldType::Texts,
        "Mode site: tests its configuration; the package's unless given.",
    ),
    Field::optional(
        "reload_command",
        FieldType::Texts,
        "Mode site: reloads it gracefully; the package's unless given.",
    ),
];

/// Checks a configuration.
///
/// # Errors
/// `INVALID_ARGUMENT` with every complaint.
pub(super) fn check(config: &Value) -> Result<()> {
    kind::check_config(FIELDS, config)?;
    let complaints = complaints(config);
    if complaints.is_empty() { Ok(()) } else { Err(Error::invalid(complaints.join("; "))) }
}

/// What it says of every site.
pub(super) fn site(config: &Value) -> Site {
    let text = |key: &str| config[key].as_str().map(str::to_owned);
    Site {
        address: text("listen").unwrap_or_else(|| LOOPBACK.to_owned()),
        config_snippet: text("config_snippet").unwrap_or_default(),
        config_file: text("config_file").map(PathBuf::from),
        shared: (text("mode").as_deref() == Some(SITE)).then(|| Shared {
            sites_folder: text("sites_folder").map(PathBuf::from),
            test_command: words(&config["test_command"]),
            reload_command: words(&config["reload_command"]),
        }),
        ..Site::default()
    }
}

/// What is wrong with a configuration whose fields each are well-formed.
fn complaints(config: &Value) -> Vec<String> {
    let text = |key: &str| config[key].as_str();
    let mut complaints = Vec::new();
    let mut unless = |fine: bool, what: String| {
        if !fine {
            complaints.push(what);
        }
    };
    let is_site = text("mode") == Some(SITE);
    let has_own = matches!(text("driver"), Some("nginx" | "apache2"));
    unless(
        text("listen").is_none_or(|listen| listen.parse::<IpAddr>().is_ok()),
        format!("config \"listen\" is {}, but must be an IP address", config["listen"]),
    );
    for key in ["config_file", "sites_folder"] {
        let is_fine = |path| Path::new(path).is_absolute() && is_plain(Path::new(path));
        unless(text(key).is_none_or(is_fine), format!("config {key:?} must be an absolute path without \"..\""));
    }
    for key in ["test_command", "reload_command"] {
        let is_empty = config[key].as_array().is_some_and(Vec::is_empty);
        unless(!is_empty, format!("config {key:?} is empty; leave it out, or give the program and its words"));
    }
    for key in ["sites_folder", "test_command", "reload_command"] {
        unless(config[key].is_null() || is_site, format!("config {key:?} goes with \"mode\": \"site\""));
    }
    for key in ["config_snippet", "config_file"] {
        unless(
            config[key].is_null() || has_own,
            format!("config {key:?} is in the language of a server: choose the driver nginx or apache2"),
        );
    }
    unless(
        !is_site || has_own,
        "config \"mode\": a site of the host's own server needs the driver nginx or apache2".into(),
    );
    complaints
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_configuration_must_make_sense() {
        let checked = |config: Value| check(&config).map_err(|error| error.message);
        for fine in [
            json!({}),
            json!({"driver": "builtin", "listen": "::"}),
            json!({"driver": "nginx", "config_snippet": "gzip on;", "config_file": "/etc/x.conf"}),
            json!({"driver": "apache2", "mode": "site", "sites_folder": "/x", "test_command": ["t"], "reload_command": ["r"]}),
        ] {
            assert_eq!(checked(fine.clone()), Ok(()), "{fine}");
        }
        for (odd, word) in [
            (json!({"driver": "caddy"}), "one of builtin, nginx, apache2"),
            (json!({"listen": "localhost"}), "IP address"),
            (json!({"driver": "builtin", "config_snippet": "x"}), "choose the driver"),
            (json!({"config_file": "/x"}), "choose the driver"),
            (json!({"driver": "nginx", "config_file": "x/../y"}), "absolute path"),
            (json!({"mode": "site"}), "needs the driver"),
            (json!({"driver": "nginx", "sites_folder": "/x"}), "goes with"),
            (json!({"driver": "nginx", "mode": "site", "test_command": []}), "is empty"),
        ] {
            let complaint = checked(odd.clone()).unwrap_err();
            assert!(complaint.contains(word), "{odd}: {complaint}");
        }
    }
}

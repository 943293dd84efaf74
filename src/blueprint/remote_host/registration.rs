//! What a registration of a box says: checked, with the blueprint's defaults, and read as the target of a link.

use std::path::PathBuf;

use serde_json::Value;

use super::host_key;
use crate::error::{Error, Reason, Result};
use crate::host::ssh::keys::HostKey;
use crate::host::ssh::target::{Target, check_host};
use crate::model::kind::check_attributes;
use crate::model::{Field, FieldType, StringMap};

/// The attribute, and the fact of leases, that says under which address others reach a box.
pub(super) const REACHED_AT: &str = "reachable_address";
const PORT: FieldType = FieldType::Integer { min: 1, max: 65535 };

/// Fields of a registration.
pub(super) const FIELDS: &[Field] = &[
    Field::required("address", FieldType::Text, "Name or address of the box."),
    Field::optional("port", PORT, "TCP port of its sshd; 22 when nothing else is said."),
    Field::optional("user", FieldType::Text, "Whom to be there; the daemon's own user when nothing else is said."),
    Field::optional("identity_file", FieldType::Text, "Private key on the daemon's machine, an absolute path."),
    Field::optional("certificate_file", FieldType::Text, "Certificate of that key, an absolute path."),
    Field::optional("identity_agent", FieldType::Text, "Socket of an ssh agent on the daemon's machine, absolute."),
    Field::optional("jump", FieldType::Text, "[user@]host[:port] through which the box is reached."),
    Field::optional("ssh_config", FieldType::Text, "An ssh configuration for names, addresses, jump hosts; absolute."),
    Field::optional(
        REACHED_AT,
        FieldType::Text,
        "Under which name or address others reach what listens there; the address unless given. To be said when that is a \
         name of an ssh_config only, or lies behind a jump host.",
    ),
    Field::optional(
        "host_key",
        FieldType::Text,
        "Its public host key, \"ssh-ed25519 AAAA…\"; several by comma. Nothing is sent to a box that shows none of them.",
    ),
];

/// Fields that a blueprint may give a default for.
const DEFAULTED: [&str; 7] =
    ["user", "port", "identity_file", "certificate_file", "identity_agent", "jump", "ssh_config"];

/// Checks a registration and fills in the blueprint's defaults.
///
/// # Errors
/// `INVALID_ATTRIBUTE` with every complaint.
pub(super) fn admit(config: &Value, attributes: &StringMap, own_user: &str) -> Result<StringMap> {
    check_attributes(FIELDS, attributes)?;
    let mut full = attributes.clone();
    full.retain(|_, value| !value.is_empty());
    for name in DEFAULTED {
        let default = match config.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => continue,
        };
        full.entry(name.to_owned()).or_insert(default);
    }
    full.entry("port".to_owned()).or_insert_with(|| "22".to_owned());
    full.entry("user".to_owned()).or_insert_with(|| own_user.to_owned());
    if let Some(keys) = full.get_mut("host_key") {
        let parsed = host_key::parse_all(keys).map_err(|why| wrong(&format!("\"host_key\" {why}")))?;
        *keys = parsed.iter().map(HostKey::line).collect::<Vec<_>>().join(",");
    }
    if let Some(address) = full.get(REACHED_AT) {
        check_host(REACHED_AT, address).map_err(|error| wrong(&error.message))?;
    }
    target("new", &full).check_way().map_err(|error| wrong(&error.message))?;
    Ok(full)
}

fn wrong(what: &str) -> Error {
    Error::new(Reason::InvalidAttribute, format!("attribute {what}"))
}

/// The target that a full registration names. `id` names it in messages and control files.
pub(super) fn target(id: &str, attributes: &StringMap) -> Target {
    let text = |name: &str| attributes.get(name).cloned();
    let path = |name: &str| attributes.get(name).map(PathBuf::from);
    let keys = text("host_key").and_then(|keys| host_key::parse_all(&keys).ok()).unwrap_or_default();
    Target {
        id: id.to_owned(),
        address: text("address").unwrap_or_default(),
        port: text("port").and_then(|port| port.parse().ok()).unwrap_or(22),
        user: text("user").unwrap_or_default(),
        identity_file: path("identity_file"),
        certificate_file: path("certificate_file"),
        identity_agent: path("identity_agent"),
        jump: text("jump"),
        ssh_config: path("ssh_config"),
        host_keys: keys.iter().map(HostKey::line).collect(),
    }
}

/// The name of the user that this process runs as.
pub(super) fn own_user() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() > 5 && fields[2] == uid).then(|| fields[0].to_owned())
    };
    passwd.lines().find_map(of).unwrap_or(uid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(pairs: &[(&str, &str)]) -> StringMap {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_blueprint_fills_in_what_is_not_said() {
        let config = json!({"user": "build", "identity_file": "/k", "port": 2222, "check_interval": "5s"});
        let full = admit(&config, &of(&[("address", "box"), ("port", "22")]), "me").unwrap();
        assert_eq!(full, of(&[("address", "box"), ("port", "22"), ("user", "build"), ("identity_file", "/k")]));
        let plain = admit(&json!({}), &of(&[("address", "::1")]), "me").unwrap();
        assert_eq!(plain, of(&[("address", "::1"), ("port", "22"), ("user", "me")]));
    }

    #[test]
    fn what_could_become_an_option_or_a_command_is_refused() {
        let wrong = [
            ("address", "-oProxyCommand=x"),
            ("address", "a b"),
            ("address", "$(id)"),
            ("address", "box;id"),
            ("address", ""),
            ("user", "-l"),
            ("user", "a b"),
            ("user", "a`id`"),
            ("port", "0"),
            ("port", "65536"),
            ("jump", "-J"),
            ("jump", "a@b@c"),
            ("jump", "host:0"),
            ("jump", "one,two"),
            ("identity_file", "id"),
            ("identity_file", "~/.ssh/id"),
            ("identity_file", "/a\nProxyCommand id"),
            ("ssh_config", "/%h"),
            ("host_key", "nonsense"),
            ("colour", "red"),
            (REACHED_AT, "a b"),
            (REACHED_AT, "http://box"),
        ];
        for (name, value) in wrong {
            let mut attributes = of(&[("address", "box")]);
            attributes.insert(name.to_owned(), value.to_owned());
            let error = admit(&json!({}), &attributes, "me").unwrap_err();
            assert_eq!(error.reason, Reason::InvalidAttribute, "{name}={value}");
            assert!(error.message.contains(name), "{name}={value}: {error}");
        }
        for jump in ["gate", "me@gate", "me@gate:2222", "[::1]:22", "10.0.0.1"] {
            assert!(admit(&json!({}), &of(&[("address", "box"), ("jump", jump)]), "me").is_ok(), "{jump}");
        }
    }
}

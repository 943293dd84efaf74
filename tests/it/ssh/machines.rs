//! The machines themselves, asked with the stock client.

use std::process::Command;

use super::sshd::{Shell, Sshd};

fn ask(machine: &Sshd, command: &str) -> String {
    let target = machine.target();
    let known = machine.folder().join("known");
    std::fs::write(&known, format!("box {}\n", target.host_keys[0])).unwrap();
    let output = Command::new("ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "HostKeyAlias=box", "-o"])
        .arg(format!("UserKnownHostsFile={}", known.display()))
        .args(["-i", target.identity_file.unwrap().to_str().unwrap(), "-l", &target.user])
        .args(["-p", &target.port.to_string(), &target.address, command])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), machine.log());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_machine_has_its_own_home_and_login_shell() {
    for shell in Shell::ALL {
        let machine = Sshd::shell(shell);
        let shown = ask(&machine, "pwd; readlink /proc/$$/exe; :");
        let (home, exe) = shown.trim().split_once('\n').unwrap();
        assert_eq!(home, machine.home().to_str().unwrap());
        let name = format!("{shell:?}").to_lowercase();
        assert!(exe.ends_with(&name), "{exe} for {name}");
    }
}

#[test]
fn what_a_machine_started_ends_with_it() {
    let mut machine = Sshd::start();
    // One that went its own way, and one below the login.
    ask(&machine, "setsid sleep 1000 >/dev/null 2>&1 </dev/null & sleep 1000 >/dev/null 2>&1 </dev/null & echo");
    assert_eq!(machine.commands().len(), 2);
    machine.restart();
    assert!(machine.commands().is_empty());
    assert_eq!(ask(&machine, "echo back"), "back\n");
}

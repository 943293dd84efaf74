//! The judge. What happens on the machines is told to a process of its own, in lines that it puts one after the other; what it
//! holds in the end is all that is believed.
//!
//! A line is `WHAT BOX HOLDER EPOCH WHEN`: what was done, on which machine, for which lease of it, with which epoch, and what
//! the machine's clock showed. Each comes with one write to a pipe, so their order is the one in which they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::queue::kit::eventually;

/// The program on each machine that tells the journal; `$1` what, `$2` the lease of the machine, `$3` the epoch.
const TELL: &str = r#"#!/bin/sh
read -r when rest </proc/uptime
printf '%s %s %s %s %s\n' "$1" BOX "$2" "${3:-0}" "$when" 1<>PIPE
"#;

/// The process that keeps it.
pub(super) struct Journal {
    folder: PathBuf,
    keeper: Child,
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    what: String,
    place: String,
    holder: String,
    epoch: u64,
    when: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, place, holder, epoch, when } = self;
        write!(f, "{what} on {place} for {holder} (epoch {epoch}) at {when}")
    }
}

impl Journal {
    pub(super) fn start(folder: &Path) -> Self {
        let pipe = folder.join("pipe");
        let made = Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap();
        assert!(made.success());
        // Open both ways, so that it does not end with who writes.
        let keeper = Command::new("sh")
            .args(["-c", r#"exec cat <>"$1" >>"$2""#, "sh"])
            .arg(&pipe)
            .arg(folder.join("journal"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { folder: folder.to_owned(), keeper }
    }

    /// Puts the program on a machine, whose name in the journal this is.
    pub(super) fn equip(&self, home: &Path, name: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let pipe = self.folder.join("pipe").display().to_string();
        let path = home.join("tell");
        std::fs::write(&path, TELL.replace("BOX", name).replace("PIPE", &pipe)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// All lines so far.
    pub(super) async fn lines(&self) -> Vec<Line> {
        let pipe = self.folder.join("pipe");
        let mark = format!("mark - - {} -\n", fastrand::u64(..));
        let mut to = std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap();
        std::io::Write::write_all(&mut to, mark.as_bytes()).unwrap();
        let text = eventually("the journal has all that was told", async || {
            let text = std::fs::read_to_string(self.folder.join("journal")).unwrap_or_default();
            text.contains(&mark).then_some(text)
        })
        .await;
        parse(&text)
    }
}

pub(super) fn parse(text: &str) -> Vec<Line> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, place, holder, epoch, when] = words[..] else { panic!("no line of the journal: {line:?}") };
        let [what, place, holder, when] = [what, place, holder, when].map(str::to_owned);
        Line { what, place, holder, epoch: epoch.parse().unwrap(), when }
    };
    text.lines().filter(|line| !line.starts_with("mark ")).map(line).collect()
}

/// What the journal says of one lease of a machine.
#[derive(Debug, Default)]
struct Tenure {
    /// Somebody else has had the machine since.
    is_over: bool,
    created: u32,
    destroyed: bool,
    epoch: u64,
}

/// What must not be, in words.
pub(super) fn judge(lines: &[Line]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
    let mut tenures: BTreeMap<(&str, &str), Tenure> = BTreeMap::new();
    let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in lines {
        let (place, holder) = (line.place.as_str(), line.holder.as_str());
        if let Some(before) = holders.insert(place, holder).filter(|before| *before != holder) {
            let left = tenures.entry((place, before)).or_default();
            left.is_over = true;
            if !left.destroyed {
                wrong.push(format!("{line}: {before} still has it"));
            }
        }
        let tenure = tenures.entry((place, holder)).or_default();
        if std::mem::take(&mut tenure.is_over) {
            wrong.push(format!("{line}: others have had it since"));
        }
        match line.what.as_str() {
            "create" => {
                tenure.created += 1;
                tenure.destroyed = false;
            }
            "use" if tenure.created == 0 => wrong.push(format!("{line}: before it was created")),
            "use" if tenure.destroyed => wrong.push(format!("{line}: after it was destroyed")),
            "use" => {}
            "destroy" => tenure.destroyed = true,
            other => wrong.push(format!("{line}: nobody does {other:?}")),
        }
        if line.what == "use" {
            if line.epoch < tenure.epoch {
                wrong.push(format!("{line}: after epoch {}", tenure.epoch));
            }
            tenure.epoch = line.epoch;
        }
        places.entry(holder).or_default().insert(place);
    }
    for ((place, holder), tenure) in tenures {
        if !tenure.destroyed {
            wrong.push(format!("{holder} on {place} never ended"));
        }
    }
    for (holder, places) in places.into_iter().filter(|(_, places)| places.len() > 1) {
        wrong.push(format!("{holder} was on {places:?}"));
    }
    wrong
}

#[test]
fn the_judge_sees_what_is_wrong() {
    let faults = |text: &str| judge(&parse(text)).len();
    let fine =
        "create a one 0 1\nuse a one 1 2\ndestroy a one 0 3\ncreate a two 0 4\nuse a two 1 5\ndestroy a two 0 6\n";
    assert_eq!(judge(&parse(fine)), [""; 0]);
    // Cut short, undone and done again is no fault; nor is what was undone twice.
    assert_eq!(
        faults("create a one 0 1\ndestroy a one 0 2\ncreate a one 0 3\ndestroy a one 0 4\ndestroy a one 0 5\n"),
        0
    );
    let wrong = [
        "create a one 0 1\ncreate a two 0 2\ndestroy a one 0 3\ndestroy a two 0 4\n",
        "create a one 0 1\nuse a one 1 2\n",
        "create a one 0 1\ndestroy a one 0 2\nuse a one 1 3\n",
        "use a one 1 1\ndestroy a one 0 2\n",
        "create a one 0 1\nuse a one 2 2\nuse a one 1 3\ndestroy a one 0 4\n",
        "create a one 0 1\ndestroy a one 0 2\ncreate a two 0 3\ndestroy a two 0 4\nuse a one 1 5\ndestroy a one 0 6\n",
        "create a one 0 1\ndestroy a one 0 2\ncreate b one 0 3\ndestroy b one 0 4\n",
    ];
    for text in wrong {
        assert!(faults(text) > 0, "{text}");
    }
}

//! What the whole tree keeps to, checked by reading it: who imports whom, where SQL and statuses are, lengths, comments.
//!
//! The table of imports is the one in ARCHITECTURE.md, read from there, so that page and check cannot disagree.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::source_code_info::Location;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// A longer file holds two ideas.
const MAX_LINES: usize = 500;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A text file of the tree; its path is relative to the root.
struct Source {
    path: String,
    text: String,
}

/// All files below `folder` whose name ends so.
fn sources(folder: &str, end: &str) -> Vec<Source> {
    fn walk(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, end, found);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), end, &mut found);
    found.sort();
    let read = |path: PathBuf| Source {
        path: path.strip_prefix(root()).unwrap().display().to_string(),
        text: fs::read_to_string(&path).unwrap(),
    };
    found.into_iter().map(read).collect()
}

/// Rust of the library, of the tests and of the benchmarks, this file excepted: it has to name what it forbids.
fn all_rust() -> Vec<Source> {
    ["src", "tests", "benches"]
        .into_iter()
        .flat_map(|folder| sources(folder, ".rs"))
        .filter(|source| source.path != "tests/it/tidy.rs")
        .collect()
}

/// Fails with all complaints at once.
fn settle(what: &str, complaints: &[String]) {
    assert!(complaints.is_empty(), "{what}:\n{}", complaints.join("\n"));
}

/// Lines without comments, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
}

/// Places where a line of code contains one of `words`, in files that are not excused.
fn mentions(sources: &[Source], words: &[&str], excused: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !excused(&source.path)) {
        for (number, line) in code(&source.text) {
            for word in words.iter().filter(|word| line.contains(**word)) {
                found.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    found
}

/// Who may import whom: a module, or one file of it, and the paths that it may name.
type Imports = BTreeMap<String, Vec<String>>;

/// The table of ARCHITECTURE.md: lines `module → path path …` in the block that is marked `imports`.
fn imports() -> Imports {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let block = page.split("```imports\n").nth(1).expect("a block of imports").split("```").next().unwrap();
    block
        .lines()
        .map(|line| {
            let (from, to) = line.split_once('→').unwrap_or_else(|| panic!("no arrow in {line:?}"));
            (from.trim().to_owned(), to.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

/// Paths in a line of code that start at the crate: `store::Tx` for `crate::store::Tx`.
fn crate_paths(line: &str) -> Vec<String> {
    let path = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '{')).collect();
    line.match_indices("crate::")
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        .map(|(at, word)| path(&line[at + word.len()..]))
        .collect()
}

#[test]
fn imports_go_one_way() {
    let table = imports();
    let mut complaints = Vec::new();
    for source in sources("src", ".rs") {
        let inside = source.path.strip_prefix("src/").unwrap();
        let module = inside.split(['/', '.']).next().unwrap();
        if matches!(inside, "lib.rs" | "main.rs") {
            continue;
        }
        let Some(allowed) = table.get(module) else {
            complaints.push(format!("{}: ARCHITECTURE.md does not know the module {module}", source.path));
            continue;
        };
        let of_file = table.get(inside).into_iter().flatten();
        let allowed: Vec<_> = allowed.iter().chain(of_file).map(String::as_str).chain([module]).collect();
        for (number, line) in code(&source.text) {
            for path in crate_paths(line) {
                let fits = |allowed: &&str| {
                    path.strip_prefix(allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
                };
                if !allowed.iter().any(fits) {
                    complaints.push(format!("{}:{number}: crate::{path}", source.path));
                }
            }
            // From the top file of a module this would be another way to say `crate::`.
            if is_top(inside) && line.starts_with("use super::") {
                complaints.push(format!("{}:{number}: say crate:: for what is outside of {module}", source.path));
            }
        }
    }
    settle("imports against the table in ARCHITECTURE.md", &complaints);
}

/// `x.rs` and `x/mod.rs` are the top of a module of the crate.
fn is_top(inside: &str) -> bool {
    !inside.contains('/') || (inside.ends_with("/mod.rs") && inside.matches('/').count() == 1)
}

#[test]
fn the_table_of_imports_has_no_circle() {
    let table = imports();
    let mut left: Vec<_> = table.keys().filter(|from| !from.contains(".rs")).cloned().collect();
    while !left.is_empty() {
        let free = |from: &String| {
            let files = table.iter().filter(|(key, _)| key.starts_with(&format!("{from}/")) || *key == from);
            !files.flat_map(|(_, to)| to).any(|to| left.iter().any(|other| to.split("::").next() == Some(other)))
        };
        let before = left.len();
        left = left.iter().filter(|from| !free(from)).cloned().collect();
        assert!(left.len() < before, "a circle among {left:?}");
    }
}

#[test]
fn sql_is_in_the_store_alone() {
    let sources = sources("src", ".rs");
    let store = |path: &str| path.starts_with("src/store/");
    let words = ["sqlx", "rusqlite", "\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE FROM ", "\"BEGIN"];
    settle("SQL outside of the store", &mentions(&sources, &words, store));
    // The edge reads; what changes anything goes through the engine.
    let others = |path: &str| !path.starts_with("src/rpc/");
    settle("the edge writes", &mentions(&sources, &["store::Tx", "store().write("], others));
}

#[test]
fn grpc_is_at_the_edge_alone() {
    let edge = |path: &str| ["src/rpc/", "src/cli/", "src/proto.rs"].iter().any(|edge| path.starts_with(edge));
    settle("tonic below the edge", &mentions(&sources("src", ".rs"), &["tonic"], edge));
}

#[test]
fn files_hold_one_idea() {
    let mut complaints = Vec::new();
    for source in all_rust() {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            complaints.push(format!("{}: {lines} lines, at most {MAX_LINES}", source.path));
        }
        let name = source.path.rsplit('/').next().unwrap();
        if ["util", "common", "helper", "manager", "misc"].iter().any(|vague| name.contains(vague)) {
            complaints.push(format!("{}: the name says nothing", source.path));
        }
        if !source.text.starts_with("//! ") {
            complaints.push(format!("{}: no module doc", source.path));
        }
    }
    settle("files", &complaints);
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["FIXME", "XXX", "todo!(", "unimplemented!(", "#[ignore", "#[allow("];
    let mut complaints = Vec::new();
    for source in all_rust() {
        for (index, line) in source.text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!("{}:{}: {word}", source.path, index + 1));
            }
        }
    }
    settle("unfinished, or switched off", &complaints);
}

#[test]
fn tests_wait_for_conditions_and_never_sleep() {
    let sources: Vec<_> = all_rust().into_iter().filter(|source| !source.path.starts_with("src/")).collect();
    settle("sleeps", &mentions(&sources, &["thread::sleep", "time::sleep", "sleep_until("], |_| false));
}

#[test]
fn every_part_of_the_api_is_commented() {
    let set = FileDescriptorSet::decode(drydock::proto::DESCRIPTORS).unwrap();
    let mut complaints = Vec::new();
    for file in set.file.iter().filter(|file| file.package().starts_with("drydock.")) {
        let comments = comments(file);
        let mut need = |path: &[i32], name: String| {
            if comments.get(path).is_none_or(|comment| comment.trim().is_empty()) {
                complaints.push(format!("{}: {name}", file.name()));
            }
        };
        // The numbers are those of descriptor.proto: message_type 4, enum_type 5, service 6.
        for (index, service) in (0..).zip(&file.service) {
            need(&[6, index], service.name().to_owned());
            for (of, method) in (0..).zip(&service.method) {
                need(&[6, index, 2, of], format!("{}.{}", service.name(), method.name()));
            }
        }
        for (index, message) in (0..).zip(&file.message_type) {
            message_needs(&[4, index], message, &mut need);
        }
        for (index, it) in (0..).zip(&file.enum_type) {
            enum_needs(&[5, index], it, &mut need);
        }
    }
    settle("without a comment", &complaints);
}

/// Leading comments by path.
fn comments(file: &FileDescriptorProto) -> BTreeMap<Vec<i32>, String> {
    let locations: &[Location] = file.source_code_info.as_ref().map_or(&[], |info| &info.location);
    locations.iter().map(|at| (at.path.clone(), at.leading_comments().to_owned())).collect()
}

fn message_needs(path: &[i32], message: &DescriptorProto, need: &mut impl FnMut(&[i32], String)) {
    if message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry) {
        return;
    }
    let at = |kind: i32, index: i32| [path, &[kind, index]].concat();
    need(path, message.name().to_owned());
    for (index, field) in (0..).zip(&message.field) {
        need(&at(2, index), format!("{}.{}", message.name(), field.name()));
    }
    for (index, nested) in (0..).zip(&message.nested_type) {
        message_needs(&at(3, index), nested, need);
    }
    for (index, it) in (0..).zip(&message.enum_type) {
        enum_needs(&at(4, index), it, need);
    }
    for (index, choice) in (0..).zip(&message.oneof_decl) {
        // What `optional` makes by itself stands nowhere in the file.
        if !choice.name().starts_with('_') {
            need(&at(8, index), format!("{}.{}", message.name(), choice.name()));
        }
    }
}

fn enum_needs(path: &[i32], it: &EnumDescriptorProto, need: &mut impl FnMut(&[i32], String)) {
    need(path, it.name().to_owned());
    for (index, value) in (0..).zip(&it.value) {
        need(&[path, &[2, index]].concat(), value.name().to_owned());
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = sources("docs", ".md");
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        pages.push(Source { path: name.to_owned(), text: fs::read_to_string(root().join(name)).unwrap() });
    }
    let mut complaints = String::new();
    for page in &pages {
        let folder = root().join(&page.path).parent().unwrap().to_owned();
        for rest in page.text.split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
                let _ = writeln!(complaints, "{}: {target}", page.path);
            }
        }
    }
    assert!(complaints.is_empty(), "links to nowhere:\n{complaints}");
}

#[test]
fn the_checklist_of_the_allocator_names_tests_that_there_are() {
    let page = fs::read_to_string(root().join("docs/allocator-checklist.md")).unwrap();
    let tests: String = sources("tests", ".rs").into_iter().map(|source| source.text).collect();
    let mut named = 0;
    let mut complaints = Vec::new();
    for name in page.split('`').skip(1).step_by(2).filter(|name| name.contains('_') && !name.contains(['.', '/'])) {
        named += 1;
        if !tests.contains(&format!("fn {name}(")) {
            complaints.push(format!("docs/allocator-checklist.md: there is no test {name}"));
        }
    }
    assert!(named > 40, "{named} tests are named");
    settle("the checklist", &complaints);
}

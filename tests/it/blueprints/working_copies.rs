//! `working-copy` with real git.

use std::path::Path;
use std::time::Duration;

use drydock::blueprint::{Context, Failure, Step};
use drydock::model::StringMap;
use serde_json::json;

use super::yard::{Yard, commit, git};

async fn copy(yard: &Yard, attributes: &[(&str, &str)]) -> (Context, Result<StringMap, Failure>) {
    let mut ctx = yard.context("working-copy", json!({}), attributes);
    let facts = yard.build(&mut ctx).await;
    (ctx, facts)
}

#[tokio::test]
async fn a_branch_a_tag_and_a_commit_are_checked_out() {
    let yard = Yard::new();
    let repository = yard.repository("site");
    let url = repository.to_str().unwrap();
    let first = git(&repository, &["rev-parse", "v1^{commit}"]);
    let second = git(&repository, &["rev-parse", "main"]);

    for (wanted, commit, name, branch) in [
        (None, &second, "main", "main"),
        (Some("main"), &second, "main", "main"),
        (Some("refs/heads/main"), &second, "main", "main"),
        (Some("feature/x"), &first, "feature/x", "feature/x"),
        (Some("v1"), &first, "v1", ""),
        (Some(first.as_str()), &first, first.as_str(), ""),
        (Some(&first[..8]), &first, &first[..8], ""),
    ] {
        let mut attributes = vec![("repository", url)];
        attributes.extend(wanted.map(|wanted| ("ref", wanted)));
        let (_, facts) = copy(&yard, &attributes).await;
        let facts = facts.unwrap_or_else(|failure| panic!("{wanted:?}: {failure:?}"));
        let path = Path::new(&facts["path"]);
        assert_eq!((&facts["commit"], facts["ref"].as_str()), (commit, name), "{wanted:?}");
        assert_eq!(&git(path, &["rev-parse", "HEAD"]), commit);
        assert_eq!(git(path, &["branch", "--show-current"]), branch);
        assert_eq!(git(path, &["status", "--porcelain", "--ignored"]), "");
        assert_eq!(git(path, &["remote", "get-url", "origin"]), url);
        assert!(git(path, &["log", "--oneline", "-1"]).starts_with(&commit[..7]));
        if !branch.is_empty() {
            assert_eq!(git(path, &["rev-parse", "--abbrev-ref", "@{u}"]), format!("origin/{branch}"));
        }
    }
    yard.end_all().await;
}

#[tokio::test]
async fn several_repositories_lie_side_by_side() {
    let yard = Yard::new();
    let (a, b) = (yard.repository("a"), yard.repository("b"));
    let attributes =
        [("repository.left", a.to_str().unwrap()), ("repository.right", b.to_str().unwrap()), ("ref.right", "v1")];
    let (_, facts) = copy(&yard, &attributes).await;
    let facts = facts.unwrap();
    let path = Path::new(&facts["path"]);
    assert_eq!(std::fs::read_to_string(path.join("left/page.txt")).unwrap(), "two");
    assert_eq!(std::fs::read_to_string(path.join("right/page.txt")).unwrap(), "one");
    assert_eq!(facts["commit.right"], git(&b, &["rev-parse", "v1^{commit}"]));
    assert_eq!((facts["ref.left"].as_str(), facts["ref.right"].as_str()), ("main", "v1"));
    yard.end_all().await;
}

#[tokio::test]
async fn what_is_not_there_fails_for_good_in_the_words_of_git() {
    let yard = Yard::new();
    let repository = yard.repository("site");
    let url = repository.to_str().unwrap();
    let empty = yard.folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    git(&empty, &["init", "--quiet"]);
    let missing = yard.folder.path().join("missing");

    for (repository, wanted, message, tail) in [
        (url, "nosuch", "git fetch refused", "fatal: couldn't find remote ref nosuch"),
        (url, "0123456789012345678901234567890123456789", "has no branch, tag or commit", "not our ref"),
        (url, "abcdef", "has no branch, tag or commit", "couldn't find remote ref abcdef"),
        (missing.to_str().unwrap(), "main", "git ls-remote refused", "does not appear to be a git repository"),
        (empty.to_str().unwrap(), "HEAD", "has no commit yet", ""),
    ] {
        let (ctx, outcome) = copy(&yard, &[("repository", repository), ("ref", wanted)]).await;
        let failure = outcome.unwrap_err();
        assert!(failure.permanent, "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}");
        assert!(failure.tail.contains(tail), "{failure:?}");
        yard.end(&ctx).await;
    }
    yard.end_all().await;
}

#[tokio::test]
async fn nothing_can_be_taken_for_an_option() {
    let yard = Yard::new();
    let flag = yard.folder.path().join("owned");
    let blueprint = yard.registry.find("working-copy").unwrap();
    let admit = |pairs: &[(&str, &str)]| {
        let attributes = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        blueprint.admit(&json!({}), &attributes)
    };
    let touch = format!("--upload-pack=touch {}", flag.display());
    let ext = format!("ext::touch {}", flag.display());
    for repository in [touch.as_str(), &ext, "-u./x", "ssh://-oProxyCommand=x/y", "--", "relative"] {
        let error = admit(&[("repository", repository)]).unwrap_err();
        assert_eq!(error.reason.as_str(), "INVALID_ATTRIBUTE", "{repository}");
    }
    for wanted in [touch.as_str(), "-f", "--detach", "a b", "main:x", "main..x", "@{-1}"] {
        assert!(admit(&[("repository", "/srv/a"), ("ref", wanted)]).is_err(), "{wanted}");
    }

    // A path may hold anything, and is still only a path.
    let odd = yard.repository("$(touch owned); --upload-pack='x'");
    let (_, facts) = copy(&yard, &[("repository", odd.to_str().unwrap())]).await;
    assert_eq!(facts.unwrap()["ref"], "main");
    assert!(!flag.exists());
    yard.end_all().await;
}

#[tokio::test]
async fn a_copy_that_is_handed_on_is_clean_and_up_to_date() {
    let yard = Yard::new();
    let repository = yard.repository("site");
    let (mut ctx, facts) = copy(&yard, &[("repository", repository.to_str().unwrap())]).await;
    let path = facts.unwrap()["path"].clone();
    let path = Path::new(&path);
    std::fs::write(path.join("page.txt"), "changed").unwrap();
    std::fs::write(path.join("left-over"), "x").unwrap();
    std::fs::write(path.join(".git/info-left-over"), "x").unwrap();
    let third = commit(&repository, "page.txt", "three");

    let blueprint = yard.registry.find("working-copy").unwrap();
    assert!(matches!(blueprint.prepare(&ctx).await, Step::Ready(facts) if facts.is_empty()), "the same lease again");
    assert!(path.join("left-over").exists());
    assert!(matches!(blueprint.clean(&ctx).await, Step::Ready(_)));

    ctx.lease = yard.context("working-copy", json!({}), &[("repository", "/x")]).lease;
    let Step::Ready(facts) = blueprint.prepare(&ctx).await else { panic!("not prepared") };
    assert_eq!(facts["commit"], third);
    assert_eq!(std::fs::read_to_string(path.join("page.txt")).unwrap(), "three");
    assert!(!path.join("left-over").exists() && !path.join(".git/info-left-over").exists());
    yard.end_all().await;
}

#[tokio::test]
async fn many_at_once_share_one_mirror_and_a_torn_one_is_made_anew() {
    let yard = Yard::new();
    let repository = yard.repository("site");
    let url = repository.to_str().unwrap();
    let attributes = [("repository", url)];
    let copies = (0..8).map(|_| copy(&yard, &attributes));
    for (_, facts) in futures::future::join_all(copies).await {
        assert_eq!(facts.unwrap()["ref"], "main");
    }
    let cache = yard.host.data_dir().join("cache/git");
    let mirrors: Vec<_> = super::yard::list(&cache).into_iter().filter(|path| path.is_dir()).collect();
    assert_eq!(mirrors.len(), 1);

    // What a git that was killed leaves behind.
    let third = commit(&repository, "page.txt", "three");
    std::fs::write(mirrors[0].join("refs/heads/main.lock"), "").unwrap();
    let (_, facts) = copy(&yard, &[("repository", url)]).await;
    assert_eq!(facts.unwrap()["commit"], third);
    yard.end_all().await;
}

#[tokio::test]
async fn a_remote_that_hangs_is_given_up_and_one_that_refuses_is_tried_again() {
    let yard = Yard::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("git://{}/a", listener.local_addr().unwrap());
    let mut ctx = yard.context("working-copy", json!({"timeout": "300ms"}), &[("repository", &silent)]);
    let failure = yard.build(&mut ctx).await.unwrap_err();
    assert!(!failure.permanent && failure.message.contains("took too long"), "{failure:?}");
    yard.end(&ctx).await;

    let mut ctx = yard.context("working-copy", json!({}), &[("repository", &silent)]);
    let cancel = ctx.cancel.clone();
    let (built, ()) = tokio::join!(yard.build(&mut ctx), async {
        listener.accept().await.unwrap();
        listener.accept().await.unwrap();
        cancel.cancel();
    });
    assert_eq!(built.unwrap_err().message, "cancelled");
    yard.end(&ctx).await;

    drop(listener);
    let attributes = [("repository", silent.as_str())];
    let (ctx, outcome) = tokio::time::timeout(Duration::from_secs(20), copy(&yard, &attributes)).await.unwrap();
    let failure = outcome.unwrap_err();
    assert!(!failure.permanent && failure.tail.contains("Connection refused"), "{failure:?}");
    yard.end(&ctx).await;
    yard.end_all().await;
}

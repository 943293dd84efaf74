//! Databases of older versions are brought to this one with all that they hold, and daemons of the version before still
//! understand a database of this one: migrations only add.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use drydock::clock::ManualClock;
use drydock::model::LeaseState;
use drydock::model::id::LeaseId;
use drydock::store::{Location, Remote, Store};
use sqlx::any::AnyConnectOptions;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, SqlSafeStr as _};

use crate::postgres::{database, is_installed};
use crate::queue::kit::{NOON, eventually, folder};

const LEASE: &str = "lease_01hf7yat000000000000000000";
/// As the first version wrote it.
const OLD_LEASE: &str = "INSERT INTO lease (id, resource_type, state, state_reason, state_message, attributes, resource_labels, blueprints, \
     facts, labels, owner, root_id, depth, priority, ord, epoch, max_ttl, create_time, reacquires, cleaned, version) VALUES \
     ('lease_01hf7yat000000000000000000', 'host', 'PENDING', '', '', '{}', '{}', '[]', '{}', '{\"job\":\"old\"}', 'ann', \
     'lease_01hf7yat000000000000000000', 0, 0, 1, 0, 86400000000, 1700000000000000, 0, 0, 1)";
/// The statements of the version before this one.
const PREVIOUS: &str = include_str!("statements-0005.txt");

/// Number and text of each migration in a folder, in order.
fn files(folder: &str) -> Vec<(i64, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/migrations").join(folder);
    let mut found: Vec<(i64, String)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            (name.split_once('_').unwrap().0.parse().unwrap(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// The first of them, as a daemon of that time ran them.
fn first(count: usize, on_postgres: bool) -> Migrator {
    let migrations = files("").into_iter().take(count).map(|(version, sql)| {
        let sql = if on_postgres {
            sql.replace("INTEGER PRIMARY KEY AUTOINCREMENT", "BIGINT PRIMARY KEY")
                .replace(" TEXT", " TEXT COLLATE \"C\"")
                .replace("JSON in TEXT COLLATE \"C\"", "JSON in TEXT")
        } else {
            sql
        };
        Migration::new(version, "old".into(), MigrationType::Simple, AssertSqlSafe(sql).into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

fn migrate(folder: &Path, database: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_drydock"));
    command.env_clear().env("HOME", folder).args(["database", "migrate", "--database", database, "--data-dir"]);
    command.arg(folder).output().unwrap()
}

/// It is there, with what the first version had said of it, and can be used.
async fn holds_the_old_lease(location: &Location) {
    let store = eventually("it opens", async || Store::open(location, ManualClock::at(NOON)).await.ok()).await;
    let id = LeaseId::parse(LEASE).unwrap();
    let lease = store.find_lease(&id).await.unwrap().expect("the lease is kept");
    assert_eq!((lease.owner.as_str(), lease.state, lease.labels["job"].as_str()), ("ann", LeaseState::Pending, "old"));
    let ended = store.write(move |tx| {
        let id = id.clone();
        Box::pin(async move {
            let before = tx.get_lease(&id).await?;
            tx.put_lease(&before, &drydock::model::Lease { state: LeaseState::Released, ..before.clone() }).await
        })
    });
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_each_older_version_is_brought_to_this_one() {
    for count in 1..files("").len() {
        let folder = folder();
        let path = folder.path().join("drydock.db");
        sqlx::any::install_default_drivers();
        let options: AnyConnectOptions = format!("sqlite://{}?mode=rwc", path.display()).parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        first(count, false).run_direct(None, &mut connection, false).await.unwrap();
        connection.execute(OLD_LEASE).await.unwrap();
        connection.close().await.unwrap();
        let migrated = migrate(folder.path(), &format!("sqlite:{}", path.display()));
        assert!(migrated.status.success(), "from {count}: {migrated:?}");
        holds_the_old_lease(&Location::Sqlite { path }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_on_a_server_of_each_older_version_is_brought_to_this_one() {
    if !is_installed() {
        return;
    }
    for count in [1, files("").len() - 1] {
        let (folder, database) = (folder(), database().await);
        let mut connection = PgConnection::connect(&database.url).await.unwrap();
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
        first(count, true).run_direct(None, &mut connection, false).await.unwrap();
        connection.execute(OLD_LEASE).await.unwrap();
        let migrated = migrate(folder.path(), &database.url);
        assert!(migrated.status.success(), "from {count}: {migrated:?}");
        // Once more changes nothing.
        assert!(migrate(folder.path(), &database.url).status.success());
        holds_the_old_lease(&Location::Postgres(Remote::at(&database.url))).await;
    }
}

fn previous(engine: &str) -> Vec<&'static str> {
    let lines = PREVIOUS.lines().filter(|line| !line.starts_with('#'));
    let of = |line: &'static str| {
        let (kind, text) = line.split_once(' ').unwrap();
        (kind == "both" || kind == engine).then_some(text)
    };
    let found: Vec<_> = lines.filter_map(of).collect();
    assert!(found.len() > 100, "{} statements for {engine}", found.len());
    found
}

#[tokio::test]
async fn the_statements_of_the_version_before_suit_the_newest_schema_in_a_file() {
    let folder = folder();
    let path = folder.path().join("drydock.db");
    drop(Store::open(&Location::Sqlite { path: path.clone() }, ManualClock::at(NOON)).await.unwrap());
    let connection = rusqlite::Connection::open(path).unwrap();
    for text in previous("sqlite") {
        connection.prepare(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    assert!(connection.prepare("SELECT nothing FROM lease").is_err());
}

#[tokio::test]
async fn the_statements_of_the_version_before_suit_the_newest_schema_on_a_server() {
    if !is_installed() {
        return;
    }
    let database = database().await;
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    for text in previous("postgres") {
        let prepare = AssertSqlSafe(format!("PREPARE before AS {text}; DEALLOCATE before"));
        sqlx::raw_sql(prepare).execute(&mut connection).await.unwrap_or_else(|error| panic!("{error}: {text}"));
    }
    assert!(sqlx::raw_sql("PREPARE before AS SELECT nothing FROM lease").execute(&mut connection).await.is_err());
}

/// What a daemon of the version before could stumble over.
fn objections(sql: &str) -> Vec<String> {
    let text: String = sql.lines().map(|line| line.split("--").next().unwrap()).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for statement in text.split(';').map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")) {
        let upper = statement.to_uppercase();
        // No statement names an index; where one relies on a key, it is not prepared without it.
        if upper.starts_with("DROP INDEX ") {
            continue;
        }
        let takes_away =
            ["DROP ", "RENAME ", "TRUNCATE ", "DELETE ", "ALTER COLUMN ", "ALTER TYPE ", " TYPE ", "ADD CONSTRAINT "];
        let word = takes_away.into_iter().find(|word| format!("{upper} ").contains(word));
        found.extend(word.map(|word| format!("{}in: {statement}", word.to_lowercase())));
        if upper.contains("ADD COLUMN") && upper.contains("NOT NULL") && !upper.contains("DEFAULT") {
            found.push(format!("a column that the version before leaves out: {statement}"));
        }
    }
    found
}

#[test]
fn migrations_only_add() {
    for (version, sql) in files("").into_iter().chain(files("postgres")) {
        assert_eq!(objections(&sql), Vec::<String>::new(), "migration {version}");
    }
    for bad in [
        "ALTER TABLE lease DROP COLUMN gang",
        "ALTER TABLE lease\n  RENAME COLUMN gang TO band",
        "drop table wait;",
        "ALTER TABLE lease ALTER COLUMN epoch TYPE TEXT",
        "ALTER TABLE lease ADD COLUMN more BIGINT NOT NULL",
    ] {
        assert_eq!(objections(bad).len(), 1, "{bad}");
    }
    assert_eq!(objections("-- DROP nothing\nALTER TABLE lease ADD COLUMN more BIGINT NOT NULL DEFAULT 0;").len(), 0);
}

//! Listings: filters, owners, pages.

use drydock::model::filter::{Compare, Field, Filter, Kind, Op, Value};
use drydock::model::{Lease, LeaseState, NewEvent, StringMap};
use drydock::store::{ListQuery, Next};

use super::ground::{Ground, lease};
use crate::queue::kit::{NOON, eventually};

fn compare(name: &'static str, key: Option<&str>, op: Op, value: Value) -> Filter {
    let kind = if key.is_some() { Kind::Map } else { Kind::Text };
    Filter::Compare(Compare { field: Field { name, kind }, key: key.map(str::to_owned), op, value })
}

fn equal(name: &'static str, text: &str) -> Filter {
    compare(name, None, Op::Equal, Value::Text(text.to_owned()))
}

async fn found(ground: &Ground, filter: Filter) -> Vec<String> {
    let query = ListQuery { filter: Some(filter), limit: 100, ..ListQuery::default() };
    let leases = ground.store.list_leases(&query, true).await.unwrap();
    leases.into_iter().map(|lease| lease.id.to_string()).collect()
}

pub(super) async fn leases_are_filtered_by_every_field(ground: Ground) {
    let map = |key: &str, value: &str| StringMap::from([(key.to_owned(), value.to_owned())]);
    let parent = (drydock::model::id::ResourceId::new(NOON), "part".to_owned());
    let wanted = Lease {
        state: LeaseState::Active,
        state_reason: "R".to_owned(),
        resource_id: Some(drydock::model::id::ResourceId::new(NOON)),
        parent: Some(parent.clone()),
        priority: 7,
        labels: map("job", "1"),
        facts: map("path", "/a"),
        create_time: NOON + 5,
        active_time: Some(NOON + 6),
        expire_time: Some(NOON + 7),
        use_time: Some(NOON + 8),
        end_time: Some(NOON + 9),
        ..lease()
    };
    let wanted = Lease {
        spec: drydock::model::LeaseSpec {
            attributes: map("ref", "main"),
            resource_type: "odd".to_owned(),
            ..wanted.spec.clone()
        },
        ..wanted
    };
    ground.insert(&wanted).await;
    ground.insert(&Lease { owner: "bob".to_owned(), ..lease() }).await;
    let text = |name: &'static str, text: &str| equal(name, text);
    let number = |name, value| compare(name, None, Op::Equal, Value::Integer(value));
    let of_map = |name, key: &str, value: &str| compare(name, Some(key), Op::Equal, Value::Text(value.to_owned()));
    let filters = [
        text("id", wanted.id.as_str()),
        text("resource_type", "odd"),
        text("state", "ACTIVE"),
        text("state_reason", "R"),
        text("owner", "ann"),
        text("resource_id", wanted.resource_id.as_ref().unwrap().as_str()),
        text("parent_resource_id", parent.0.as_str()),
        text("root_lease_id", wanted.root_id.as_str()),
        number("priority", 7),
        number("create_time", NOON + 5),
        number("active_time", NOON + 6),
        number("expire_time", NOON + 7),
        number("use_time", NOON + 8),
        number("end_time", NOON + 9),
        of_map("labels", "job", "1"),
        of_map("attributes", "ref", "main"),
        of_map("facts", "path", "/a"),
    ];
    for filter in filters.iter().cloned().chain([Filter::And(filters.to_vec())]) {
        assert_eq!(found(&ground, filter.clone()).await, [wanted.id.to_string()], "{filter:?}");
    }
    let newer = compare("create_time", None, Op::Greater, Value::Integer(NOON + 5));
    assert_eq!(found(&ground, newer).await, Vec::<String>::new());
    let since = compare("create_time", None, Op::GreaterOrEqual, Value::Integer(NOON + 5));
    assert_eq!(found(&ground, since).await.len(), 1);
    let others = compare("state", None, Op::NotEqual, Value::Text("ACTIVE".to_owned()));
    assert_eq!(found(&ground, others).await.len(), 1);
}

pub(super) async fn pages_show_each_entry_once(ground: Ground) {
    let mut all = Vec::new();
    for number in 0..25 {
        // Ids begin with the millisecond of their birth.
        let id = drydock::model::id::LeaseId::new(NOON + number * 1000);
        ground.insert(&Lease { id: id.clone(), root_id: id.clone(), ..lease() }).await;
        all.push(id.to_string());
    }
    all.reverse();
    let mut query = ListQuery { limit: 10, ..ListQuery::default() };
    let mut seen = Vec::new();
    loop {
        let mut page: Vec<String> =
            ground.store.list_leases(&query, false).await.unwrap().into_iter().map(|l| l.id.to_string()).collect();
        let more = page.len() == 11;
        page.truncate(10);
        query.after = page.last().cloned();
        seen.append(&mut page);
        // What comes meanwhile is newer than the first page and does not shift the next one.
        let id = drydock::model::id::LeaseId::new(NOON + 1_000_000_000);
        ground.insert(&Lease { id: id.clone(), root_id: id, ..lease() }).await;
        if !more {
            break;
        }
    }
    assert_eq!(seen, all);
}

pub(super) async fn what_belongs_to_others_is_not_listed(ground: Ground) {
    let hers = ground.insert(&lease()).await;
    ground.insert(&Lease { owner: "bob".to_owned(), ..lease() }).await;
    let sub = Lease {
        parent: Some((drydock::model::id::ResourceId::new(NOON), "part".to_owned())),
        root_id: hers.id.clone(),
        ..lease()
    };
    ground.insert(&sub).await;
    let query = ListQuery { owner: Some("ann".to_owned()), limit: 10, ..ListQuery::default() };
    let roots = ground.store.list_leases(&query, false).await.unwrap();
    assert_eq!(roots.iter().map(|lease| &lease.id).collect::<Vec<_>>(), [&hers.id]);
    assert_eq!(ground.store.list_leases(&query, true).await.unwrap().len(), 2);
    let sneaky = ListQuery { filter: Some(equal("owner", "bob")), ..query };
    assert!(ground.store.list_leases(&sneaky, true).await.unwrap().is_empty());
}

pub(super) async fn prefixes_and_odd_keys_are_taken_as_they_are(ground: Ground) {
    let odd = ["a.b", "a\"b", "a\\b", "ä", "$", "' OR 1=1 --"];
    let labels = odd.iter().enumerate().map(|(number, key)| ((*key).to_owned(), format!("100%_{number}"))).collect();
    let lease = ground.insert(&Lease { labels, state_reason: "50%_x".to_owned(), ..lease() }).await;
    let is = |key: &str, op, value| compare("labels", Some(key), op, value);
    for (number, key) in odd.iter().enumerate() {
        let exact = is(key, Op::Equal, Value::Text(format!("100%_{number}")));
        assert_eq!(found(&ground, exact).await, [lease.id.to_string()], "{key}");
        let begins = is(key, Op::Equal, Value::Prefix("100%_".to_owned()));
        assert_eq!(found(&ground, begins).await.len(), 1, "{key}");
        let not = is(key, Op::NotEqual, Value::Prefix("100%_".to_owned()));
        assert_eq!(found(&ground, not).await.len(), 0, "{key}");
    }
    let wild = compare("state_reason", None, Op::Equal, Value::Prefix("5_%".to_owned()));
    assert_eq!(found(&ground, wild).await.len(), 0, "a percent sign is a percent sign");
    let text = "x'); DROP TABLE lease; --";
    assert_eq!(found(&ground, equal("owner", text)).await.len(), 0);
    assert_eq!(found(&ground, equal("owner", "ann")).await.len(), 1);
}

pub(super) async fn finished_tasks_are_not_shown(ground: Ground) {
    let (done, left) = (ground.insert(&lease()).await, ground.insert(&lease()).await);
    let claim = ground.claim_of(done.id).await;
    ground.settle(&claim, Next::Done).await;
    let tasks = ground.store.list_tasks(&ListQuery { limit: 10, ..ListQuery::default() }).await.unwrap();
    assert_eq!(tasks.iter().map(|task| task.subject.as_str()).collect::<Vec<_>>(), [left.id.as_str()]);
    let of = ListQuery { filter: Some(equal("subject_id", left.id.as_str())), limit: 10, ..ListQuery::default() };
    assert_eq!(ground.store.list_tasks(&of).await.unwrap().len(), 1);
}

pub(super) async fn events_are_paged_in_the_order_of_commits(ground: Ground) {
    for number in 0..7 {
        let event = NewEvent {
            kind: "lease.created",
            reason: String::new(),
            message: number.to_string(),
            actor: "ann".to_owned(),
            subjects: vec![format!("s{number}"), "shared".to_owned()],
            root_id: None,
            owner: if number % 2 == 0 { "ann" } else { "bob" }.to_owned(),
            details: StringMap::new(),
        };
        ground
            .store
            .write(move |tx| {
                let event = event.clone();
                Box::pin(async move { tx.event(event).await })
            })
            .await
            .unwrap();
    }
    // Where transactions overlap, an event is shown when those before it have ended.
    eventually("all are shown", async || {
        let all = ground.store.list_events(&ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap();
        (all.len() == 7).then_some(())
    })
    .await;
    let mut query = ListQuery { owner: Some("ann".to_owned()), limit: 2, ..ListQuery::default() };
    let mut seen = Vec::new();
    loop {
        let mut page = ground.store.list_events(&query).await.unwrap();
        let more = page.len() == 3;
        page.truncate(2);
        query.after = page.last().map(|event| event.seq.to_string());
        seen.extend(page.into_iter().map(|event| event.message));
        if !more {
            break;
        }
    }
    assert_eq!(seen, ["0", "2", "4", "6"]);
    let token = ListQuery { after: Some("x".to_owned()), ..query };
    let refused = ground.store.list_events(&token).await.unwrap_err();
    assert_eq!(refused.reason, drydock::error::Reason::InvalidPageToken);
    let all = ground.store.list_events(&ListQuery { limit: 9, ..ListQuery::default() }).await.unwrap();
    let (first, last) = ground.store.event_span().await.unwrap();
    assert!(first <= all[0].seq && last == all[6].seq, "{first} to {last}");
}

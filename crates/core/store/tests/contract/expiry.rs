//! What time to live promises.

use std::time::Duration;

use fram_store::{Clock, EventKind, Operation};

use crate::subject::{all, events, put, subject};

const HOUR: Duration = Duration::from_secs(3600);

fn expiring(key: &str) -> Operation {
    Operation::Put { key: key.into(), value: "x".into(), ttl: Some(HOUR) }
}

#[tokio::test]
async fn an_expired_key_is_deleted_by_a_transaction_of_its_own() {
    let subject = subject();
    let revision = subject.commit(vec![expiring("a"), expiring("b"), put("c", "1")]).await.revision;
    let mut watch = subject.store.watch("", revision).await.unwrap();
    subject.clock.advance(HOUR);
    let mut deletions = events(&mut watch).await;
    while deletions.len() < 2 {
        deletions.extend(events(&mut watch).await);
    }
    assert!(deletions.iter().all(|event| event.kind == EventKind::Delete && event.previous.is_some()));
    assert_eq!(
        deletions.iter().map(|event| (event.key.as_str(), event.revision)).collect::<Vec<_>>(),
        [("a", revision.next()), ("b", revision.next().next())]
    );
    assert_eq!(all(&subject.snapshot().await), ["c=1"]);
}

#[tokio::test]
async fn a_key_lives_until_its_time_has_come() {
    let subject = subject();
    subject.commit(vec![expiring("a")]).await;
    subject.clock.advance(HOUR - Duration::from_millis(1));
    subject.put("b", "1").await;
    let snapshot = subject.snapshot().await;
    assert_eq!(snapshot.get("a").unwrap().expires, Some(subject.clock.now().after(Duration::from_millis(1))));
}

#[tokio::test]
async fn a_later_put_decides_when_the_key_expires() {
    let subject = subject();
    subject.commit(vec![expiring("forever"), expiring("again"), expiring("once")]).await;
    subject.clock.advance(HOUR / 2);
    let revision = subject.commit(vec![put("forever", "1"), expiring("again")]).await.revision;
    let mut watch = subject.store.watch("", revision).await.unwrap();
    subject.clock.advance(HOUR / 2);
    assert_eq!(events(&mut watch).await[0].key.as_str(), "once");
    assert_eq!(all(&subject.snapshot().await), ["again=x", "forever=1"]);
    subject.clock.advance(HOUR / 2);
    assert_eq!(events(&mut watch).await[0].key.as_str(), "again");
    assert_eq!(all(&subject.snapshot().await), ["forever=1"]);
}

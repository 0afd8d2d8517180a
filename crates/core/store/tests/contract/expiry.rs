//! What time to live promises. How exactly a key's end meets its time is the engine's affair; it does not come before.

use std::time::Duration;

use fram_store::{Clock, EventKind, Operation};

use crate::subject::{Subject, all, events, put, subject};

fn expiring(subject: &Subject, key: &str) -> Operation {
    Operation::Put { key: key.into(), value: "x".into(), ttl: Some(subject.ttl) }
}

#[tokio::test]
async fn an_expired_key_is_deleted_and_watches_see_it() {
    let subject = subject().await;
    let revision = subject.commit(vec![expiring(&subject, "a"), expiring(&subject, "b"), put("c", "1")]).await.revision;
    let mut watch = subject.store.watch("", revision).await.unwrap();
    subject.pass(subject.ttl).await;
    let mut deletions = events(&mut watch).await;
    while deletions.len() < 2 {
        deletions.extend(events(&mut watch).await);
    }
    assert!(deletions.iter().all(|event| event.kind == EventKind::Delete && event.previous.is_some() && event.revision > revision));
    assert_eq!(deletions.iter().map(|event| event.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(all(&subject.snapshot().await), ["c=1"]);
    assert_eq!(subject.store.revision().await.unwrap(), deletions[1].revision);
}

#[tokio::test]
async fn a_key_lives_until_its_time_has_come() {
    let subject = subject().await;
    let expires = subject.clock.now().after(subject.ttl);
    subject.commit(vec![expiring(&subject, "a")]).await;
    // What it takes to do so is not to matter.
    subject.pass(subject.ttl - Duration::from_millis(200)).await;
    subject.put("b", "1").await;
    let snapshot = subject.snapshot().await;
    assert_eq!(snapshot.get("a").unwrap().expires, Some(expires));
    assert_eq!(snapshot.get("b").unwrap().expires, None);
}

#[tokio::test]
async fn a_later_put_decides_when_the_key_expires() {
    let subject = subject().await;
    subject.commit(["forever", "again", "once"].map(|key| expiring(&subject, key)).to_vec()).await;
    subject.pass(subject.ttl / 2).await;
    let revision = subject.commit(vec![put("forever", "1"), expiring(&subject, "again")]).await.revision;
    let mut watch = subject.store.watch("", revision).await.unwrap();
    subject.pass(subject.ttl / 2).await;
    assert_eq!(events(&mut watch).await[0].key.as_str(), "once");
    assert_eq!(all(&subject.snapshot().await), ["again=x", "forever=1"]);
    subject.pass(subject.ttl / 2).await;
    assert_eq!(events(&mut watch).await[0].key.as_str(), "again");
    assert_eq!(all(&subject.snapshot().await), ["forever=1"]);
}

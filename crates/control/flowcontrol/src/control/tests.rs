//! The shell under paused time: who waits, who runs, who is refused, and that seats come back.

use super::*;
use fram_machinery::{Value, meta, object};

fn control(seats: u64, queuing: Value) -> Arc<FlowControl> {
    let control = FlowControl::new(seats, Duration::from_secs(15));
    let level = object!({ "metadata": { "name": "small", "uid": "level-uid" }, "spec": { "type": "Limited", "limited": {
        "nominalConcurrencyShares": 1_i64, "limitResponse": queuing } } });
    let mut schema = crate::defaults::flow_schemas().into_iter().find(|s| meta::name(s) == "global-default").unwrap();
    schema.set(&["spec", "priorityLevelConfiguration", "name"], "small");
    schema.set(&["metadata", "uid"], "schema-uid");
    control.configure(&[schema], &[level]);
    Arc::new(control)
}

fn queued() -> Value {
    object!({ "type": "Queue", "queuing": { "queues": 1_i64, "handSize": 1_i64, "queueLengthLimit": 2_i64 } })
}

async fn enter(control: &Arc<FlowControl>) -> Result<Ticket, Refused> {
    let groups = ["system:authenticated".to_string()];
    let digest = Digest { user: "u", groups: &groups, verb: "get", resource: "pods", namespace: "a", ..Default::default() };
    let (class, outcome) = control.enter(&digest, Listed::default()).await;
    let class = class.unwrap();
    assert_eq!((&*class.schema_uid, &*class.level_uid), ("schema-uid", "level-uid"));
    outcome
}

fn counts(control: &FlowControl) -> (u64, u64) {
    let in_force = control.in_force();
    let inner = in_force.levels["small"].inner.lock();
    (inner.queues.executing, inner.queues.waiting)
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_seat_that_is_given_back() {
    let control = control(1, queued());
    let first = enter(&control).await.unwrap();
    let second = enter(&control);
    tokio::pin!(second);
    assert!(futures_now(second.as_mut()).await.is_none());
    assert_eq!(counts(&control), (1, 1));
    drop(first);
    let second = second.await.unwrap();
    assert_eq!(counts(&control), (1, 0));
    drop(second);
    assert_eq!(counts(&control), (0, 0));
}

/// What a future gives if it is asked once.
async fn futures_now<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_or_comes_to_a_full_queue_is_refused() {
    let control = control(1, queued());
    let first = enter(&control).await.unwrap();
    let (second, third) = (enter(&control), enter(&control));
    tokio::pin!(second, third);
    assert!(futures_now(second.as_mut()).await.is_none() && futures_now(third.as_mut()).await.is_none());
    assert_eq!(enter(&control).await.err(), Some(Refused::QueueFull));
    let began = tokio::time::Instant::now();
    assert_eq!(second.await.err(), Some(Refused::TimeOut));
    assert_eq!(began.elapsed(), Duration::from_secs(15));
    drop(first);
    drop(third.await);
    assert_eq!(counts(&control), (0, 0));
    let table = control.dump("dump_priority_levels").unwrap();
    assert!(table.contains("small, 0, true, false, 0, 0, 2, 1, 1, 0"), "{table}");
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_while_it_waits_leaves_nothing_behind() {
    let control = control(1, queued());
    let first = enter(&control).await.unwrap();
    {
        let second = enter(&control);
        tokio::pin!(second);
        assert!(futures_now(second.as_mut()).await.is_none());
        let requests = control.dump("dump_requests").unwrap();
        assert!(requests.contains("small, global-default, 0, 0, u, 0.000, 1"), "{requests}");
    }
    assert_eq!(counts(&control), (1, 0));
    {
        let second = enter(&control);
        tokio::pin!(second);
        assert!(futures_now(second.as_mut()).await.is_none());
        // It is given the seat, and goes without having looked.
        drop(first);
        assert_eq!(counts(&control), (1, 0));
    }
    assert_eq!(counts(&control), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_level_that_does_not_queue_refuses_at_once() {
    let control = control(1, object!({ "type": "Reject" }));
    let first = enter(&control).await.unwrap();
    assert_eq!(enter(&control).await.err(), Some(Refused::ConcurrencyLimit));
    drop(first);
    assert!(enter(&control).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_many_watch_keeps_its_seats_for_a_while() {
    let control = control(100, queued());
    let watches: Vec<_> = (0..30).map(|_| control.estimator.watch("", "pods", "")).collect();
    let groups = ["system:authenticated".to_string()];
    let digest = Digest { user: "u", groups: &groups, verb: "create", resource: "pods", namespace: "a", ..Default::default() };
    let ticket = control.enter(&digest, Listed::default()).await.1.unwrap();
    let seats = |control: &FlowControl| control.in_force().levels["small"].inner.lock().queues.seats;
    assert_eq!(seats(&control), 3);
    drop(ticket);
    assert_eq!(seats(&control), 3);
    tokio::time::sleep(Duration::from_millis(6)).await;
    assert_eq!(seats(&control), 0);
    drop(watches);
}

#[tokio::test(start_paused = true)]
async fn levels_keep_their_requests_when_the_configuration_changes() {
    let control = control(1, queued());
    let first = enter(&control).await.unwrap();
    let (schemas, levels) = (crate::defaults::flow_schemas(), crate::defaults::priority_levels());
    let level = object!({ "metadata": { "name": "small" }, "spec": { "type": "Limited", "limited": { "nominalConcurrencyShares": 1_i64,
        "limitResponse": (queued()) } } });
    control.configure(&schemas, &[levels, vec![level]].concat());
    assert_eq!(counts(&control), (1, 0));
    control.configure(&schemas, &crate::defaults::priority_levels());
    assert!(!control.in_force().levels.contains_key("small"));
    // It ends in a level that is no more.
    drop(first);
    control.adjust();
}

#[tokio::test(start_paused = true)]
async fn masters_never_wait() {
    let control = Arc::new(FlowControl::new(1, Duration::from_secs(15)));
    let groups = ["system:masters".to_string()];
    let digest = Digest { user: "admin", groups: &groups, verb: "list", resource: "pods", ..Default::default() };
    let mut tickets = Vec::new();
    for _ in 0..1000 {
        tickets.push(control.enter(&digest, Listed::default()).await.1.unwrap());
    }
}

//! The harness with reconcilers that fail, panic and ask for more time, under paused time.

use std::collections::HashMap;

use super::*;

fn start<F>(controller: Controller, reconcile: impl Fn(String) -> F + Send + 'static) -> (Enqueuer, CancellationToken, JoinSet<()>)
where
    F: Future<Output = Result<Action, String>> + Send + 'static,
{
    let (enqueuer, stop, mut tasks) = (controller.enqueuer(), CancellationToken::new(), JoinSet::new());
    tasks.spawn(controller.run(reconcile, stop.clone()));
    (enqueuer, stop, tasks)
}

#[tokio::test(start_paused = true)]
async fn a_failing_or_panicking_key_is_tried_again_and_others_go_on() {
    let tries: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let seen = tries.clone();
    let reconcile = move |key: String| {
        let seen = seen.clone();
        async move {
            let n = *seen.lock().entry(key.clone()).and_modify(|n| *n += 1).or_insert(1);
            match key.as_str() {
                "fails" if n < 4 => Err("not yet".to_string()),
                "panics" if n < 2 => panic!("a defect"),
                "waits" if n < 3 => Ok(Action::After(Duration::from_secs(10))),
                _ => Ok(Action::Done),
            }
        }
    };
    let (enqueuer, stop, mut tasks) = start(Controller::new("test", 2), reconcile);
    for key in ["fails", "panics", "waits", "good"] {
        enqueuer.add(key);
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(tries.lock()["waits"], 2);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let told: Vec<u32> = ["fails", "panics", "waits", "good"].iter().map(|k| tries.lock()[*k]).collect();
    assert_eq!(told, [4, 2, 3, 1]);
    let counts = enqueuer.counts();
    assert_eq!((counts.adds, counts.reconciles, counts.retries, counts.depth, counts.work.told().1), (4, 10, 4, 0, 10));
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reconciled_before_everything_that_is_needed_was_listed() {
    let (tasks, stop_informers) = (tokio_util::task::TaskTracker::new(), CancellationToken::new());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let client = crate::Client::new(Arc::new(Late(gate.clone())), "test");
    let late = Informer::start(client, crate::resources::PODS, "", Default::default(), &tasks, stop_informers);
    let tries = Arc::new(AtomicU64::new(0));
    let seen = tries.clone();
    let reconcile = move |_: String| {
        seen.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Action::Done))
    };
    let (enqueuer, _stop, _tasks) = start(Controller::new("test", 1).needs(&late), reconcile);
    enqueuer.add("key");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(tries.load(Ordering::Relaxed), 0);
    gate.add_permits(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(tries.load(Ordering::Relaxed), 1);
}

/// A server that answers lists when it is let.
struct Late(Arc<tokio::sync::Semaphore>);

#[async_trait::async_trait]
impl crate::Transport for Late {
    async fn call(&self, _: crate::Call) -> Result<crate::Reply, fram_machinery::Status> {
        let _let = self.0.acquire().await;
        Ok(crate::Reply::Page(crate::Page { items: Vec::new(), resource_version: "1".into(), ..Default::default() }))
    }

    async fn watch(&self, _: &crate::Resource, _: &str, _: crate::ListOptions) -> Result<crate::WatchStream, fram_machinery::Status> {
        let _let = self.0.acquire().await;
        Ok(Box::pin(futures_util::stream::pending()))
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_keys_than_workers_are_under_way_and_no_key_twice() {
    let running: Arc<Mutex<Vec<String>>> = Arc::default();
    let worst = Arc::new(AtomicU64::new(0));
    let (now, most) = (running.clone(), worst.clone());
    let reconcile = move |key: String| {
        let (now, most) = (now.clone(), most.clone());
        async move {
            assert!(!now.lock().contains(&key), "one worker for each key");
            now.lock().push(key.clone());
            most.fetch_max(now.lock().len() as u64, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            now.lock().retain(|k| *k != key);
            Ok(Action::Done)
        }
    };
    let (enqueuer, _stop, _tasks) = start(Controller::new("test", 3), reconcile);
    for n in 0..8 {
        enqueuer.add(format!("k{n}"));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    enqueuer.add("k0");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((worst.load(Ordering::Relaxed), enqueuer.counts().reconciles, enqueuer.counts().retries), (3, 9, 0));
}

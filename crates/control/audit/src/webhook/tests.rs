//! The webhook sink against a server on loopback.

use super::*;
use std::convert::Infallible;
use std::io::Write;

use hyper::service::service_fn;
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// A webhook that refuses its first `refusals` batches and keeps the others.
struct Hook {
    refusals: Mutex<usize>,
    batches: Mutex<Vec<Value>>,
    changed: tokio::sync::Notify,
}

async fn hook(refusals: usize, tasks: &mut JoinSet<()>) -> (Arc<Hook>, u16) {
    let hook = Arc::new(Hook { refusals: Mutex::new(refusals), batches: Mutex::default(), changed: tokio::sync::Notify::new() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let kept = hook.clone();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let hook = kept.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let hook = hook.clone();
                async move {
                    assert_eq!((request.uri().path(), request.method().as_str()), ("/audit", "POST"));
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let mut response = http::Response::new(Full::new(Bytes::new()));
                    let mut refusals = hook.refusals.lock();
                    if *refusals > 0 {
                        *refusals -= 1;
                        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                    } else {
                        hook.batches.lock().push(json::from_slice(&body).unwrap());
                        hook.changed.notify_one();
                    }
                    Ok::<_, Infallible>(response)
                }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
    });
    (hook, port)
}

fn config(port: u16) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}/audit'}}}}]\n"
    );
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[tokio::test]
async fn events_go_out_in_batches_and_again_after_a_refusal() {
    let mut tasks = JoinSet::new();
    let (hook, port) = hook(1, &mut tasks).await;
    let counters = Counters::default();
    let options =
        BatchOptions { max_size: 2, max_wait: Duration::from_millis(20), initial_backoff: Duration::from_millis(5), ..Default::default() };
    let (webhook, sender) = Webhook::open(config(port).path(), options, counters.clone()).unwrap();
    let stop = CancellationToken::new();
    tasks.spawn(sender.run(stop.clone()));
    for n in 0..3_i64 {
        assert!(webhook.take(&Arc::new(object!({ "n": n }))));
    }
    let seen = async {
        while hook.batches.lock().iter().map(|b| b.list_at(&["items"]).len()).sum::<usize>() < 3 {
            hook.changed.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
    let batches = hook.batches.lock().clone();
    assert!(batches.iter().all(|b| b.str_at(&["kind"]) == "EventList" && b.list_at(&["items"]).len() <= 2), "{batches:?}");
    assert_eq!(counters.lost_by("webhook"), 0);
}

#[tokio::test]
async fn what_is_buffered_goes_out_at_the_end() {
    let mut tasks = JoinSet::new();
    let (hook, port) = hook(0, &mut tasks).await;
    let (webhook, sender) = Webhook::open(config(port).path(), BatchOptions::default(), Counters::default()).unwrap();
    assert!(webhook.take(&Arc::new(object!({}))));
    let stop = CancellationToken::new();
    stop.cancel();
    sender.run(stop).await;
    assert_eq!(hook.batches.lock().len(), 1);
}

#[tokio::test]
async fn what_does_not_fit_or_is_never_taken_is_lost_and_counted() {
    let mut tasks = JoinSet::new();
    let (hook, port) = hook(usize::MAX, &mut tasks).await;
    let counters = Counters::default();
    let options = BatchOptions {
        buffer_size: 1,
        max_wait: Duration::from_millis(1),
        initial_backoff: Duration::from_millis(1),
        ..Default::default()
    };
    let (webhook, sender) = Webhook::open(config(port).path(), options, counters.clone()).unwrap();
    assert!(webhook.take(&Arc::new(object!({}))) && !webhook.take(&Arc::new(object!({}))));
    let stop = CancellationToken::new();
    let running = sender.run(stop.clone());
    let ends = async {
        while counters.lost_by("webhook") == 0 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(running, ends) }).await.unwrap();
    assert!(hook.batches.lock().is_empty());
    assert_eq!(*hook.refusals.lock(), usize::MAX - TRIES as usize);
}

#[test]
fn a_throttle_lets_a_burst_through_and_then_so_many_a_second() {
    let mut throttle = Throttle::new(&BatchOptions { throttle_qps: 10.0, throttle_burst: 2.0, ..Default::default() });
    let now = Instant::now();
    assert_eq!([throttle.take(now), throttle.take(now)], [None, None]);
    let wait = throttle.take(now).unwrap();
    assert!((wait.as_secs_f64() - 0.1).abs() < 0.001);
    assert_eq!(throttle.take(now + Duration::from_secs(1)), None);
}

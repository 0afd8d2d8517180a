//! A service and its client over a real socket.

use super::*;
use crate::{ConnectError, UnixEndpoint};

crate::messages! {
    Words { words: Vec<String> = 1 }
}

struct Echo;

impl Service for Echo {
    async fn call(&self, method: &str, mut call: Call) -> Result<Reply, Status> {
        match method {
            "/test.Echo/Once" => Ok(Reply::message(&call.message::<Words>().await?)),
            "/test.Echo/Each" => {
                let words: Words = call.message().await?;
                let end = Err(Status::new(11, "the end: 100 %"));
                let each = words.words.into_iter().map(|word| Ok(Words { words: vec![word] }.encode()));
                let messages: Vec<_> = each.chain([end]).collect();
                Ok(Reply::Stream(Box::pin(futures_util::stream::iter(messages))))
            }
            "/test.Echo/Last" => {
                let mut last = Words::default();
                while let Some(words) = call.next::<Words>().await? {
                    last = words;
                }
                Ok(Reply::Stream(Box::pin(futures_util::stream::iter([Ok(last.encode())]))))
            }
            other => Err(Status::unknown_method(other)),
        }
    }
}

fn words(text: &str) -> Vec<u8> {
    Words { words: text.split_whitespace().map(String::from).collect() }.encode()
}

async fn with_server<F: Future<Output = ()>>(test: impl FnOnce(UnixEndpoint) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/echo.sock");
    let (stop, listener) = (CancellationToken::new(), listen(&path).unwrap());
    let options = ServerOptions { max_message: 100, ..ServerOptions::default() };
    let serving = serve(listener, Arc::new(Echo), options, stop.clone());
    let testing = async {
        test(UnixEndpoint::new(path.clone(), 1000)).await;
        stop.cancel();
    };
    tokio::join!(serving, testing);
}

#[tokio::test]
async fn a_call_is_answered_with_a_message_or_a_status() {
    with_server(async |endpoint| {
        let channel = endpoint.channel().await.unwrap();
        let answer = channel.unary("/test.Echo/Once", &words("a b")).await.unwrap();
        assert_eq!(Words::decode(&answer).unwrap().words, ["a", "b"]);
        for (method, message, expect) in [
            ("/test.Echo/None", words(""), "rpc error: code = 12 desc = unknown method /test.Echo/None"),
            ("/test.Echo/Once", vec![0x0a, 5], "rpc error: code = 3 desc = the message cannot be understood"),
            ("/test.Echo/Once", words(&"x ".repeat(100)), "rpc error: code = 3 desc = the request is malformed or too large"),
        ] {
            assert_eq!(channel.unary(method, &message).await.unwrap_err().to_string(), expect);
        }
    })
    .await;
}

#[tokio::test]
async fn streams_go_both_ways_and_end_with_their_status() {
    with_server(async |endpoint| {
        let channel = endpoint.channel().await.unwrap();
        let (_out, mut answers) = channel.stream("/test.Echo/Each", &words("a b")).await.unwrap();
        for expect in ["a", "b"] {
            assert_eq!(Words::decode(&answers.next().await.unwrap().unwrap()).unwrap().words, [expect]);
        }
        assert_eq!(answers.next().await.unwrap_err().to_string(), "rpc error: code = 11 desc = the end: 100 %");
    })
    .await;
}

#[tokio::test]
async fn a_request_for_a_stream_ends_with_its_message() {
    with_server(async |endpoint| {
        let channel = endpoint.channel().await.unwrap();
        let message = words("a");
        let listening = channel.listen("/test.Echo/Last", &message);
        let mut answers = tokio::time::timeout(Duration::from_secs(20), listening).await.unwrap().unwrap();
        assert_eq!(Words::decode(&answers.next().await.unwrap().unwrap()).unwrap().words, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn a_socket_that_was_left_behind_is_replaced_and_a_file_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    drop(listen(&path).unwrap());
    assert!(matches!(UnixEndpoint::new(path.clone(), 0).channel().await, Err(ConnectError::Connect { .. })), "nobody listens");
    drop(listen(&path).unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(listen(&file).is_err() && file.exists());
}

#[test]
fn a_timeout_is_a_number_with_a_unit() {
    for (text, expect) in [("2S", Some(2000)), ("1H", Some(3_600_000)), ("15m", Some(15)), ("2000000n", Some(2)), ("", None), ("5", None)] {
        assert_eq!(timeout(text), expect.map(Duration::from_millis), "{text}");
    }
}

//! Frames against what a real client sends, and sessions over a pipe.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

/// The bodies of two SYN_STREAM frames after their first ten bytes, as zlib compresses them with the dictionary: the second
/// refers to the first.
const FIRST: &str = "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff";
const SECOND: &str = "c2aa19540e2512d60b000000ffff";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[i * 2..i * 2 + 2], 16).unwrap()).collect()
}

#[test]
fn header_blocks_are_inflated_with_the_dictionary_and_one_after_the_other() {
    let mut inflater = Inflater::new();
    let mut read = |hex: &str| {
        let mut body = vec![0; 10];
        body.extend(bytes(hex));
        let head = [0x80, 3, 0, 1, 0, 0, 0, 0];
        match frame::parse(&head, body, &mut inflater).unwrap() {
            Frame::Open { headers, .. } => headers,
            other => panic!("{other:?}"),
        }
    };
    let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
    assert_eq!(read(FIRST), [pair("streamtype", "error"), pair("port", "8080"), pair("requestid", "0")]);
    assert_eq!(read(SECOND), [pair("streamtype", "data"), pair("port", "8080"), pair("requestid", "0")]);
}

#[test]
fn a_frame_that_is_too_long_or_cut_short_is_refused() {
    assert!(frame::body_length(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]).is_err());
    let head = [0x80, 3, 0, 1, 0, 0, 0, 3];
    assert!(frame::parse(&head, vec![0; 3], &mut Inflater::new()).is_err());
    assert!(frame::parse(&[0x80, 2, 0, 1, 0, 0, 0, 0], vec![0; 20], &mut Inflater::new()).is_err());
}

/// Reads what the server sends: data of each stream, and whether it has ended.
async fn received(stream: &mut DuplexStream, id: u32) -> Vec<u8> {
    let (mut out, mut inflater) = (Vec::new(), Inflater::new());
    loop {
        let mut head = [0; frame::HEAD];
        stream.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; frame::body_length(&head).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        match frame::parse(&head, body, &mut inflater).unwrap() {
            Frame::Data { id: of, end, bytes } if of == id => {
                out.extend(bytes);
                if end {
                    return out;
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_command_gets_its_input_and_gives_output_and_status() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let options = fram_cri::ExecOptions { stdin: true, stdout: true, ..Default::default() };
    let open = Box::pin(async {
        let (ours, theirs) = tokio::io::duplex(64);
        let (read, write) = tokio::io::split(theirs);
        let echo = async move {
            let (mut read, mut write) = (read, write);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
            Ok(4)
        };
        let (reader, writer) = tokio::io::split(ours);
        // The exit future runs the echo; outputs are read beside it in a real process.
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(echo);
        let exit = Box::pin(async move { tasks.join_next().await.unwrap().unwrap() });
        Ok(fram_cri::ContainerStream { stdin: Some(Box::new(writer)), stdout: Some(Box::new(reader)), stderr: None, resize: None, exit })
    });
    let mut server_tasks = tokio::task::JoinSet::new();
    server_tasks.spawn(async move { exec::session(server, "v4.channel.k8s.io", options, open, "x").await });
    for (i, kind) in ["error", "stdin", "stdout"].into_iter().enumerate() {
        client.write_all(&frame::open(1 + 2 * i as u32, &[("streamtype", kind)], i == 0)).await.unwrap();
    }
    client.write_all(&frame::data(3, false, b"hello")).await.unwrap();
    client.write_all(&frame::data(3, true, b"")).await.unwrap();
    let status = received(&mut client, 1).await;
    assert!(String::from_utf8_lossy(&status).contains("exit status 4"));
}

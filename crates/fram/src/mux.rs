//! Many streams over one connection, by yamux. One task drives the connection; others ask it for streams.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use fram_apiserver::nodes::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, ConnectionError, Mode};

/// One of the streams.
pub(crate) type Lane = Compat<yamux::Stream>;
type Asked = oneshot::Sender<Lane>;

/// How many may wait for a stream.
const WAITING: usize = 64;

/// Asks for streams. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Opener {
    ask: mpsc::Sender<Asked>,
}

impl Opener {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Asked>) {
        let (ask, asked) = mpsc::channel(WAITING);
        (Self { ask }, asked)
    }

    /// A new stream, or None where the connection has ended.
    pub(crate) async fn open(&self) -> Option<Lane> {
        let (answer, opened) = oneshot::channel();
        self.ask.send(answer).await.ok()?;
        opened.await.ok()
    }
}

/// Which end of the connection this is: it decides how streams are numbered.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Server,
    Agent,
}

/// Drives a connection until it ends; `accept` is given the streams that the other end opens.
pub(crate) async fn drive(
    stream: Box<dyn Stream>,
    end: End,
    mut asked: mpsc::Receiver<Asked>,
    mut accept: impl FnMut(Lane),
) -> Result<(), ConnectionError> {
    let mode = match end {
        End::Server => Mode::Server,
        End::Agent => Mode::Client,
    };
    let mut connection = Connection::new(stream.compat(), Config::default(), mode);
    let mut waiting = VecDeque::new();
    poll_fn(move |cx| {
        while let Poll::Ready(Some(one)) = asked.poll_recv(cx) {
            waiting.push_back(one);
        }
        while let Some(one) = waiting.pop_front() {
            match connection.poll_new_outbound(cx) {
                // Who asked may have gone; then the stream is closed by being dropped.
                Poll::Ready(Ok(lane)) => drop(Asked::send(one, lane.compat())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    waiting.push_front(one);
                    break;
                }
            }
        }
        loop {
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(lane))) => accept(lane.compat()),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

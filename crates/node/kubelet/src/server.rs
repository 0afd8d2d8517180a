//! The kubelet's HTTP API.

mod logs;

pub(crate) use logs::tail_messages as log_tail;
